"""MoCo against algorithm 1 of the paper, written out slowly and without the package's code."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mocodet.common.launch import distribute
from mocodet.pretrain.contrast import MomentumContrast
from mocodet.pretrain.shuffle_bn import BatchShuffle, GroupedBatchNorm2d
from tests.processes import run_in_processes

DIM, QUEUE, MOMENTUM, TEMPERATURE, LR, SGD_MOMENTUM, DECAY = 6, 21, 0.9, 0.2, 0.05, 0.9, 1e-4
BATCH, STEPS, SEED = 8, 20, 3  # 20 x 8 keys go round a queue of 21, which 8 does not divide, seven times


def small_encoder(norm) -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), norm(5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, DIM)
    )


def small_moco(groups: int) -> MomentumContrast:
    norm = nn.BatchNorm2d if groups == 1 else (lambda channels: GroupedBatchNorm2d(channels, groups))
    return MomentumContrast(
        small_encoder(norm),
        BatchShuffle(SEED),
        queue_size=QUEUE,
        dim=DIM,
        momentum=MOMENTUM,
        temperature=TEMPERATURE,
    )


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(11)
    return [{name: torch.randn(BATCH, 3, 6, 6, generator=generator) for name in ("query", "key")} for _ in range(STEPS)]


def train(groups: int, rank: int = 0, world: int = 1) -> dict:
    """Train the package's MoCo, on this process's rows of each batch."""
    moco = small_moco(groups)
    model = distribute(moco)
    optimizer = torch.optim.SGD(moco.encoder_q.parameters(), lr=LR, momentum=SGD_MOMENTUM, weight_decay=DECAY)
    rows = BATCH // world
    losses, queues, keys = [], [], []
    for batch in batches():
        outputs = model({name: images[rank * rows : (rank + 1) * rows] for name, images in batch.items()})
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
        losses.append(outputs["loss"].item())
        queues.append(moco.queue.clone())
        keys.append([parameter.detach().clone() for parameter in moco.encoder_k.parameters()])
    return {"losses": losses, "queues": queues, "keys": keys, "pointer": int(moco.queue_ptr)}


def train_both_ways() -> dict[int, dict]:
    from detectron2.utils import comm

    return {groups: train(groups, comm.get_rank(), comm.get_world_size()) for groups in (1, 2)}


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.pow(2).sum().sqrt()


def reference(devices: int) -> dict:
    """Algorithm 1 for ``devices`` devices with plain BN each, one image, one key and one logit at a time."""
    start = small_moco(1)
    f_q, f_k = copy.deepcopy(start.encoder_q), copy.deepcopy(start.encoder_q)
    queue = [column.clone() for column in start.queue.T]  # oldest first, once `head` is considered
    head = 0
    velocity = [torch.zeros_like(parameter) for parameter in f_q.parameters()]
    shuffling = torch.Generator().manual_seed(SEED)
    rows = BATCH // devices
    losses, queues, key_parameters = [], [], []
    for batch in batches():
        q = []
        for device in range(devices):
            q += [unit(v) for v in f_q(batch["query"][device * rows : (device + 1) * rows])]
        with torch.no_grad():
            for mine, theirs in zip(f_k.parameters(), f_q.parameters(), strict=True):
                mine.copy_(MOMENTUM * mine + (1 - MOMENTUM) * theirs)
            order = torch.randperm(BATCH, generator=shuffling).tolist()
            k = [None] * BATCH
            for device in range(devices):
                here = order[device * rows : (device + 1) * rows]
                encoded = f_k(torch.stack([batch["key"][image] for image in here]))
                for image, vector in zip(here, encoded, strict=True):
                    k[image] = unit(vector)
        per_device = []
        for device in range(devices):
            terms = []
            for image in range(device * rows, (device + 1) * rows):
                scores = [torch.dot(q[image], key) / TEMPERATURE for key in [k[image], *queue]]
                terms.append(-(scores[0] - torch.logsumexp(torch.stack(scores), 0)))
            per_device.append(torch.stack(terms).mean())
        gradients = torch.autograd.grad(torch.stack(per_device).mean(), list(f_q.parameters()))
        with torch.no_grad():
            for parameter, gradient, speed in zip(f_q.parameters(), gradients, velocity, strict=True):
                speed.mul_(SGD_MOMENTUM).add_(gradient + DECAY * parameter)
                parameter.sub_(LR * speed)
        for key in k:
            queue[head] = key
            head = (head + 1) % QUEUE
        losses.append([loss.item() for loss in per_device])
        queues.append(torch.stack(queue).T)
        key_parameters.append([parameter.detach().clone() for parameter in f_k.parameters()])
    return {"losses": losses, "queues": queues, "keys": key_parameters, "pointer": head}


def assert_same_training(found: dict, expected: dict, device: int | None) -> None:
    assert found["pointer"] == expected["pointer"]
    for step in range(STEPS):
        losses = expected["losses"][step]
        loss = sum(losses) / len(losses) if device is None else losses[device]
        assert found["losses"][step] == pytest.approx(loss, abs=1e-5), f"loss of step {step}"
        torch.testing.assert_close(found["queues"][step], expected["queues"][step], atol=1e-5, rtol=0)
        for mine, theirs in zip(found["keys"][step], expected["keys"][step], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moco__agrees_with_algorithm_1_in_one_process(groups):
    assert_same_training(train(groups), reference(groups), device=None)


def test_moco__agrees_with_algorithm_1_in_two_processes():
    for rank, found in enumerate(run_in_processes(train_both_ways)):
        assert_same_training(found[1], reference(2), device=rank)
        # Two processes of two groups each normalise as four devices do.
        four = reference(4)
        four["losses"] = [[sum(losses[2 * rank : 2 * rank + 2]) / 2] for losses in four["losses"]]
        assert_same_training(found[2], four, device=0)


def test_init__key_encoder_is_an_exact_frozen_copy():
    moco = small_moco(1)
    queries, keys = moco.encoder_q.state_dict(), moco.encoder_k.state_dict()
    assert all(torch.equal(queries[name], keys[name]) for name in queries)
    assert not any(parameter.requires_grad for parameter in moco.encoder_k.parameters())
    assert all(
        mine.data_ptr() != theirs.data_ptr()
        for mine, theirs in zip(moco.encoder_q.parameters(), moco.encoder_k.parameters(), strict=True)
    )
    torch.testing.assert_close(moco.queue.norm(dim=0), torch.ones(QUEUE))


def test_momentum_update__leaves_buffers_alone():
    moco = small_moco(1)
    moco.encoder_q[1].running_mean.fill_(7.0)
    with torch.no_grad():
        moco.encoder_q[0].weight.fill_(2.0)
    before = moco.encoder_k[0].weight.clone()
    moco.momentum_update()
    torch.testing.assert_close(moco.encoder_k[0].weight, MOMENTUM * before + (1 - MOMENTUM) * 2.0)
    assert moco.encoder_k[1].running_mean.eq(0).all()


def test_forward__logits_use_the_queue_from_before_the_batch():
    moco = small_moco(1)
    batch = batches()[0]
    before = moco.queue.clone()
    seen = {}
    original = moco.logits

    def spy(q, k):
        seen["q"], seen["k"], seen["logits"] = q, k, original(q, k)
        return seen["logits"]

    moco.logits = spy
    moco(batch)
    expected = torch.cat([(seen["q"] * seen["k"]).sum(1, keepdim=True), seen["q"] @ before], dim=1) / TEMPERATURE
    torch.testing.assert_close(seen["logits"], expected)
    assert not torch.equal(before, moco.queue)


def test_forward__no_gradient_reaches_keys_or_queue():
    moco = small_moco(1)
    moco(batches()[0])["loss"].backward()
    assert all(parameter.grad is not None for parameter in moco.encoder_q.parameters())
    assert all(parameter.grad is None for parameter in moco.encoder_k.parameters())
    assert not moco.queue.requires_grad


def test_dequeue_and_enqueue__batch_larger_than_queue_keeps_the_newest():
    moco = small_moco(1)
    keys = F.normalize(torch.randn(2 * QUEUE + 5, DIM), dim=1)
    moco.dequeue_and_enqueue(keys[:4])
    moco.dequeue_and_enqueue(keys[4:])
    ring = [None] * QUEUE
    for number, key in enumerate(keys):
        ring[number % QUEUE] = key
    torch.testing.assert_close(moco.queue, torch.stack(ring).T)
    assert int(moco.queue_ptr) == len(keys) % QUEUE


def test_logits__float32_under_autocast():
    moco = small_moco(1)
    q, k = (F.normalize(torch.randn(4, DIM), dim=1) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = moco.logits(q, k)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, moco.logits(q, k))
