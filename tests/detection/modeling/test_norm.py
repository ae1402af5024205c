import pytest
import torch
import torch.distributed as dist
from torch import nn

from mocodet.detection.modeling.norm import CPUSyncBatchNorm, adapt_norms_to_device
from tests.processes import run_in_processes

CHANNELS = 5
# Batch and image size of each process: equal, uneven, one of them empty.
SHAPES = {
    "even": [(2, 4, 4), (2, 4, 4)],
    "uneven": [(3, 4, 6), (1, 5, 2)],
    "empty": [(3, 4, 4), (0, 4, 4)],
}


def batch(rank: int, shape: tuple[int, int, int]) -> torch.Tensor:
    n, h, w = shape
    generator = torch.Generator().manual_seed(rank)
    # A large mean with a small spread: E[x^2] - E[x]^2 would lose its precision here.
    return torch.randn(n, CHANNELS, h, w, generator=generator) * 0.1 + 30 * (rank + 1)


def new_norm(cls: type[nn.Module]) -> nn.Module:
    norm = cls(CHANNELS)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return norm


def loss_of(y: torch.Tensor) -> torch.Tensor:
    return (y.sigmoid() * torch.linspace(-1, 1, CHANNELS)[:, None, None]).sum()


def forward_backward(name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    x = batch(dist.get_rank(), SHAPES[name][dist.get_rank()]).to(dtype).requires_grad_()
    norm = new_norm(CPUSyncBatchNorm)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = norm(x)
    loss_of(y).backward()
    return {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad} | dict(
        norm.named_buffers()
    )


def evaluate() -> torch.Tensor:
    norm = new_norm(CPUSyncBatchNorm).eval()
    if dist.get_rank() == 1:  # the other process does not take part: evaluation must not communicate
        return torch.empty(0)
    return norm(batch(0, (2, 3, 3))).detach()


def everything() -> dict[str, object]:
    """All results of a process for the tests, since starting processes takes longer than their work."""
    results = {name: forward_backward(name, torch.float32) for name in SHAPES}
    return results | {"bfloat16": forward_backward("uneven", torch.bfloat16), "evaluation": evaluate()}


@pytest.fixture(scope="module")
def processes() -> list[dict]:
    return run_in_processes(everything)


@pytest.mark.parametrize("name", SHAPES)
def test_cpu_sync_batch_norm__equals_batch_norm_on_the_concatenated_batch(name, processes):
    found = [results[name] for results in processes]
    xs = [batch(rank, shape).double().requires_grad_() for rank, shape in enumerate(SHAPES[name])]
    reference = new_norm(nn.BatchNorm2d).double()
    # BatchNorm2d needs one tensor: put all values of all images in a row.
    rows = torch.cat([x.transpose(0, 1).reshape(CHANNELS, -1) for x in xs], dim=1)
    normalised = reference(rows.T[:, :, None, None])[:, :, 0, 0].T  # C x values
    counts = [x[:, 0].numel() for x in xs]
    ys = [
        part.reshape(CHANNELS, len(x), *x.shape[2:]).transpose(0, 1)
        for part, x in zip(normalised.split(counts, dim=1), xs, strict=True)
    ]
    sum(loss_of(y) for y in ys).backward()

    def close(a: torch.Tensor, b: torch.Tensor) -> bool:
        return torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4)

    for result, x, y in zip(found, xs, ys, strict=True):
        assert close(result["y"], y)
        assert close(result["x"], x.grad)
        assert close(result["running_mean"], reference.running_mean)
        assert close(result["running_var"], reference.running_var)
        assert result["num_batches_tracked"] == 1
    assert close(sum(r["weight"] for r in found), reference.weight.grad)
    assert close(sum(r["bias"] for r in found), reference.bias.grad)


def test_cpu_sync_batch_norm__reduces_in_float32_under_autocast(processes):
    found = [results["bfloat16"] for results in processes]
    xs = [batch(rank, shape).bfloat16().float() for rank, shape in enumerate(SHAPES["uneven"])]
    values = torch.cat([x.transpose(0, 1).reshape(CHANNELS, -1) for x in xs], dim=1)
    for result in found:
        assert result["y"].dtype == torch.bfloat16
        assert torch.allclose(result["running_mean"], 0.1 * values.mean(1), rtol=1e-6)
        assert torch.allclose(result["running_var"], 0.9 + 0.1 * values.var(1), rtol=1e-5)


def test_cpu_sync_batch_norm__evaluation_is_local(processes):
    assert torch.equal(processes[0]["evaluation"], new_norm(nn.BatchNorm2d).eval()(batch(0, (2, 3, 3))))


def test_cpu_sync_batch_norm__one_process_is_batch_norm():
    x = batch(0, (2, 3, 3))
    ours, reference = new_norm(CPUSyncBatchNorm), new_norm(nn.BatchNorm2d)
    assert torch.equal(ours(x), reference(x))
    assert torch.equal(ours.running_var, reference.running_var)


def test_adapt_norms_to_device__replaces_sync_norms_and_keeps_their_tensors():
    model = nn.Sequential(nn.SyncBatchNorm(3, eps=0.1, momentum=0.2), nn.ModuleDict({"bn": nn.BatchNorm2d(3)}))
    model.append(nn.ModuleList([nn.SyncBatchNorm(4)]))
    before = model.state_dict(keep_vars=True)
    adapted = adapt_norms_to_device(model)
    assert [type(m) for m in (adapted[0], adapted[1]["bn"], adapted[2][0])] == [
        CPUSyncBatchNorm, nn.BatchNorm2d, CPUSyncBatchNorm,
    ]  # fmt: skip
    assert (adapted[0].eps, adapted[0].momentum) == (0.1, 0.2)
    after = adapted.state_dict(keep_vars=True)
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
