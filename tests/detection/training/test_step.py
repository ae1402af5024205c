import copy
import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from detectron2.config import get_cfg
from detectron2.engine import SimpleTrainer
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from mocodet.common.launch import distribute
from mocodet.detection.training.step import AccumulatingTrainer
from tests.processes import run_in_processes

STEPS = 3
BATCH = 8  # of all processes


class Regression(nn.Module):
    """Two losses of a net without batch norm, each a mean over the images like a detector's; records its type."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.layers(x)
        self.dtype = y.dtype
        y = y.float()  # as a detector's losses are; float16's first loss scale would overflow otherwise
        return {"square": 1e-3 * y.square().mean(), "absolute": 1e-3 * y.abs().mean()}


def batches() -> list[torch.Tensor]:
    return [torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step)) for step in range(STEPS)]


def sgd(model: nn.Module, *, clip: float | None = None) -> torch.optim.Optimizer:
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = clip is not None
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = clip or 0.0
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(model.parameters(), 50, 0.9)


def big_batches(
    optimizer: torch.optim.Optimizer, model: nn.Module, dtype: torch.dtype | None = None
) -> list[dict[str, float]]:
    """The plain training loop: one batch, one update; returns the losses of each."""
    logged = []
    for x in batches():
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            losses = model(x)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        logged.append({name: loss.item() for name, loss in losses.items()})
    return logged


def train(trainer: SimpleTrainer) -> list[dict[str, float]]:
    logged = []
    for trainer.iter in range(STEPS):
        with EventStorage(trainer.iter) as storage:
            trainer.run_step()
        logged.append({name: value for name, (value, _) in storage.latest().items()})
    return logged


def parameters(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("clip", [None, 1e-4])
@pytest.mark.parametrize("micro_batches", [1, 2, 8])
def test_accumulating_trainer__is_one_big_batch_to_the_optimizer(micro_batches, clip):
    ours, reference = Regression(), Regression()
    expected = big_batches(sgd(reference, clip=clip), reference)
    micro = [part for x in batches() for part in x.chunk(micro_batches)]
    logged = train(AccumulatingTrainer(ours, micro, sgd(ours, clip=clip), micro_batches=micro_batches))
    torch.testing.assert_close(parameters(ours), parameters(reference))
    assert (parameters(ours) - parameters(Regression())).abs().max() > 0.01
    for found, losses in zip(logged, expected, strict=True):
        assert {name: found[name] for name in losses} == pytest.approx(losses)
        assert found["total_loss"] == pytest.approx(sum(losses.values()))


def test_accumulating_trainer__clips_the_gathered_gradient():
    ours, unclipped = Regression(), Regression()
    micro = [part for x in batches() for part in x.chunk(2)]
    train(AccumulatingTrainer(ours, micro, sgd(ours, clip=1e-4), micro_batches=2))
    big_batches(sgd(unclipped), unclipped)
    assert not torch.allclose(parameters(ours), parameters(unclipped))


def test_accumulating_trainer__one_micro_batch_is_detectron2s_trainer():
    ours, theirs = Regression(), Regression()
    logged = train(AccumulatingTrainer(ours, batches(), sgd(ours)))
    expected = train(SimpleTrainer(theirs, batches(), sgd(theirs)))
    assert torch.equal(parameters(ours), parameters(theirs))
    times = ("data_time", "rank_data_time")
    for found, wanted in zip(logged, expected, strict=True):
        assert found.keys() == wanted.keys()
        assert {k: v for k, v in found.items() if k not in times} == {k: v for k, v in wanted.items() if k not in times}


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_accumulating_trainer__autocast(dtype, micro_batches):
    ours, reference = Regression(), Regression()
    micro = [part for x in batches() for part in x.chunk(micro_batches)]
    trainer = AccumulatingTrainer(ours, micro, sgd(ours), micro_batches=micro_batches, dtype=dtype)
    logged = train(trainer)
    expected = big_batches(sgd(reference), reference, dtype)
    assert ours.dtype == dtype
    assert ours.layers[0].weight.dtype == torch.float32
    torch.testing.assert_close(parameters(ours), parameters(reference), rtol=2e-2, atol=2e-3)
    assert [found["total_loss"] for found in logged] == pytest.approx(
        [sum(losses.values()) for losses in expected], rel=2e-2
    )


def test_accumulating_trainer__keeps_the_loss_scale_and_only_that():
    def made(dtype: torch.dtype | None) -> AccumulatingTrainer:
        model = Regression()
        return AccumulatingTrainer(model, batches(), sgd(model), dtype=dtype)

    scaled, fresh, full = made(torch.float16), made(torch.float16), made(None)
    train(scaled)
    scaled._scaler.update(1024.0)
    fresh.load_state_dict(copy.deepcopy(scaled.state_dict()))
    assert fresh._scaler.get_scale() == 1024
    full.load_state_dict(copy.deepcopy(scaled.state_dict()))  # a run resumes in another precision, both ways
    assert "grad_scaler" not in full.state_dict()
    fresh.load_state_dict(full.state_dict())


def test_accumulating_trainer__one_bad_micro_batch_stops_the_run():
    model = Regression()
    before = parameters(model).clone()
    micro = list(batches()[0].chunk(4))
    micro[1] = micro[1] * math.nan
    with EventStorage(), pytest.raises(FloatingPointError, match="infinite or NaN at iteration=0"):
        AccumulatingTrainer(model, micro, sgd(model), micro_batches=4).run_step()
    assert torch.equal(parameters(model), before)


def test_accumulating_trainer__evaluation_mode():
    model = Regression()
    trainer = AccumulatingTrainer(model, batches(), sgd(model))
    model.eval()
    with EventStorage(), pytest.raises(RuntimeError, match="evaluation mode"):
        trainer.run_step()


def accumulate_in_processes(micro_batches: int) -> dict:
    model = distribute(Regression())
    exchanged = []

    def count(group: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        exchanged.append(bucket.index())
        return allreduce_hook(group, bucket)

    def mine() -> Iterator[torch.Tensor]:
        """Like detectron2's loaders: every micro-batch is divided among the processes."""
        for x in batches():
            for part in x.chunk(micro_batches):
                yield part[comm.get_rank() :: comm.get_world_size()]

    model.register_comm_hook(None, count)
    logged = train(AccumulatingTrainer(model, mine(), sgd(model), micro_batches=micro_batches))
    return {"parameters": parameters(model), "exchanged": exchanged, "logged": logged}


def test_accumulating_trainer__processes_exchange_gradients_once():
    reference = Regression()
    losses = big_batches(sgd(reference), reference)
    first, second = run_in_processes(accumulate_in_processes, 4)
    assert first["exchanged"] == second["exchanged"] == [0] * STEPS  # one bucket, once an update
    assert torch.equal(first["parameters"], second["parameters"])
    torch.testing.assert_close(first["parameters"], parameters(reference))
    for found, wanted in zip(first["logged"], losses, strict=True):
        assert found["total_loss"] == pytest.approx(sum(wanted.values()))
