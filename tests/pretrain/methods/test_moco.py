"""MoCo against algorithm 1 of the paper, written out slowly and without the package's code."""

import pytest
import torch
import torch.nn.functional as F

from mocodet.pretrain.methods import MomentumContrast, moco
from mocodet.pretrain.methods.losses import queue_info_nce
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from tests.pretrain.methods.small import (
    BATCH,
    DIM,
    SEED,
    TEMPERATURE,
    Training,
    assert_same_in_processes,
    assert_same_training,
    contrast,
    encode,
    image_batches,
    on_devices,
    slow_training,
    small_encoder,
    train,
)
from tests.processes import run_in_processes

QUEUE, MOMENTUM = 21, 0.9
STEPS = 20  # 20 x 8 keys go round a queue of 21, which 8 does not divide, seven times


def small_moco(groups: int) -> MomentumContrast:
    return MomentumContrast(
        small_encoder(groups),
        BatchShuffle(SEED),
        queue_size=QUEUE,
        dim=DIM,
        momentum=MOMENTUM,
        temperature=TEMPERATURE,
    )


def batches() -> list[dict[str, torch.Tensor]]:
    return image_batches(("query", "key"), STEPS)


def train_both_ways() -> dict[int, Training]:
    return {groups: train(small_moco(groups), batches()) for groups in (1, 2)}


def reference(devices: int) -> Training:
    """Algorithm 1 for ``devices`` devices with plain BN each, one image, one key and one logit at a time."""
    start = small_moco(1)
    f_q, f_k = (on_devices(small_encoder(1), devices) for _ in range(2))
    for encoder in f_k:
        encoder.requires_grad_(False)
    queue = [column.clone() for column in start.queue.T]  # oldest first, starting at `head`
    head = 0
    shuffling = torch.Generator().manual_seed(SEED)

    def step(batch):
        nonlocal head
        q = encode(f_q, batch["query"])
        with torch.no_grad():
            for mine, theirs in zip(f_k[0].parameters(), f_q[0].parameters(), strict=True):
                mine.copy_(MOMENTUM * mine + (1 - MOMENTUM) * theirs)
            k = encode(f_k, batch["key"], torch.randperm(BATCH, generator=shuffling).tolist())
        scores = [[torch.dot(q[image], key) for key in [k[image], *queue]] for image in range(BATCH)]
        for key in k:
            queue[head] = key
            head = (head + 1) % QUEUE
        return contrast(scores)

    def state():
        return {"queue": torch.stack(queue).T, "queue_ptr": torch.tensor([head])}

    return slow_training(step, {"encoder_q": f_q, "encoder_k": f_k}, batches(), state)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moco__agrees_with_algorithm_1_in_one_process(groups):
    assert_same_training(train(small_moco(groups), batches()), reference(groups), range(groups))


def test_moco__agrees_with_algorithm_1_in_two_processes():
    # Two processes with two groups each normalise like four devices.
    trainings = run_in_processes(train_both_ways)
    for groups in (1, 2):
        assert_same_in_processes([found[groups] for found in trainings], reference(2 * groups))


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


def parameter_pairs(moco: MomentumContrast) -> list[tuple[torch.Tensor, torch.Tensor]]:
    encoders = moco.encoder_k, moco.encoder_q
    return [
        (theta_k.detach(), theta_q.detach())
        for theta_k, theta_q in zip(*(e.parameters() for e in encoders), strict=True)
    ]


def test_momentum_update__leaves_buffers_alone():
    moco = small_moco(1)
    moco.encoder_q[1].running_mean.fill_(7.0)
    with torch.no_grad():
        moco.encoder_q[0].weight.fill_(2.0)
    one_by_one = [theta_k.lerp(theta_q, 1 - MOMENTUM) for theta_k, theta_q in parameter_pairs(moco)]
    by_equation_2 = [MOMENTUM * theta_k + (1 - MOMENTUM) * theta_q for theta_k, theta_q in parameter_pairs(moco)]
    moco.momentum_update()
    found = list(moco.encoder_k.parameters())
    torch.testing.assert_close(found, by_equation_2)
    assert all(map(torch.equal, found, one_by_one))
    assert moco.encoder_k[1].running_mean.eq(0).all()


def test_begin_step__momentum_rises_along_half_a_cosine():
    moco = MomentumContrast(small_encoder(1), BatchShuffle(1), momentum=0.99, momentum_schedule="cosine", queue_size=8)
    rising = []
    for iteration in range(101):
        moco.begin_step(iteration, 100)
        rising.append(moco.momentum)
    # BYOL, section 3.3: 1 - (1 - base) (cos(pi k / K) + 1) / 2.
    assert [rising[0], rising[50], rising[100]] == pytest.approx([0.99, 0.995, 1])
    assert rising == sorted(rising)
    constant = small_moco(1)
    constant.begin_step(50, 100)
    assert constant.momentum == MOMENTUM


def test_forward__contrasts_with_the_queue_from_before_the_batch(monkeypatch):
    model = small_moco(1)
    before = model.queue.clone()
    seen = {}

    def spy(q, k, queue, temperature):
        seen.update(queue=queue.clone(), found=queue_info_nce(q, k, queue, temperature))
        return seen["found"]

    monkeypatch.setattr(moco, "queue_info_nce", spy)
    outputs = model(batches()[0])
    assert torch.equal(seen["queue"], before)
    assert not torch.equal(model.queue, before)
    assert (outputs["loss"], outputs["accuracy"]) == seen["found"]


def test_forward__no_gradient_reaches_keys_or_queue():
    moco = small_moco(1)
    moco(batches()[0])["loss"].backward()
    assert all(parameter.grad is not None for parameter in moco.encoder_q.parameters())
    assert all(parameter.grad is None for parameter in moco.encoder_k.parameters())
    assert not moco.queue.requires_grad


def test_dequeue_and_enqueue__batch_larger_than_queue_keeps_the_newest():
    moco = small_moco(1)
    keys = F.normalize(torch.randn(2 * QUEUE + 5, DIM), dim=1)
    for part in (keys[:4], keys[4:]):
        moco.dequeue_and_enqueue(part, moco.queue, moco.queue_ptr)
    ring = [None] * QUEUE
    for number, key in enumerate(keys):
        ring[number % QUEUE] = key
    torch.testing.assert_close(moco.queue, torch.stack(ring).T)
    assert int(moco.queue_ptr) == len(keys) % QUEUE


def test_accuracy_in_batch__only_keys_of_this_batch_compete():
    q = F.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.9, 0.2]]), dim=1)
    k = F.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.1, 0.9]]), dim=1)
    found = MomentumContrast.accuracy_in_batch(q, k)
    nearest = [max(range(3), key=lambda other: float(torch.dot(query, k[other]))) for query in q]
    assert nearest == [0, 1, 0]
    assert found.item() == pytest.approx(2 / 3)
    moco = small_moco(1)
    assert 0 <= moco(batches()[0])["accuracy_in_batch"] <= 1
