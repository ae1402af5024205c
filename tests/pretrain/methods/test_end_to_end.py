"""End-to-end contrast against figure 2a, written out slowly and without the package's code."""

import pytest
import torch
import torch.nn.functional as F

from mocodet.pretrain.methods import EndToEnd
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

STEPS = 10


def small_method(groups: int, shuffled: bool = True) -> EndToEnd:
    return EndToEnd(small_encoder(groups), BatchShuffle(SEED, enabled=shuffled), temperature=TEMPERATURE)


def batches() -> list[dict[str, torch.Tensor]]:
    return image_batches(("query", "key"), STEPS)


def train_all() -> dict[tuple[int, bool], Training]:
    return {
        (groups, shuffled): train(small_method(groups, shuffled), batches())
        for groups in (1, 2)
        for shuffled in (True, False)
    }


def reference(devices: int, shuffled: bool = True) -> Training:
    """Both encoders by back-propagation through every key of the global batch, on ``devices`` devices."""
    f_q, f_k = (on_devices(small_encoder(1), devices) for _ in range(2))
    shuffling = torch.Generator().manual_seed(SEED)

    def step(batch):
        q = encode(f_q, batch["query"])
        order = torch.randperm(BATCH, generator=shuffling).tolist() if shuffled else range(BATCH)
        k = encode(f_k, batch["key"], order)
        others = [[other for other in range(BATCH) if other != image] for image in range(BATCH)]
        return contrast([[torch.dot(q[image], k[key]) for key in (image, *others[image])] for image in range(BATCH)])

    return slow_training(step, {"encoder_q": f_q, "encoder_k": f_k}, batches())


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_end_to_end__agrees_with_the_definition_in_one_process(groups):
    assert_same_training(train(small_method(groups), batches()), reference(groups), range(groups))


def test_end_to_end__agrees_with_the_definition_in_two_processes():
    # Equal parameters after every step prove that gradients that cross processes have the right scale.
    trainings = run_in_processes(train_all)
    for groups, shuffled in trainings[0]:
        assert_same_in_processes([found[groups, shuffled] for found in trainings], reference(2 * groups, shuffled))


def test_forward__gradient_reaches_both_encoders():
    method = small_method(2)
    method(batches()[0])["loss"].backward()
    for encoder in (method.encoder_q, method.encoder_k):
        assert all(parameter.grad.abs().max() > 0 for parameter in encoder.parameters())


def test_init__encoders_start_equal_and_share_nothing():
    method = small_method(1)
    for mine, theirs in zip(method.encoder_q.parameters(), method.encoder_k.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.requires_grad
        assert theirs.requires_grad
        assert mine.data_ptr() != theirs.data_ptr()


def test_logits__float32_under_autocast():
    method = small_method(1)
    q, k = (F.normalize(torch.randn(4, DIM), dim=1) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method.logits(q, k)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, q @ k.T / TEMPERATURE)
