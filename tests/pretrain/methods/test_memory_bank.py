"""The memory bank against figure 2b, written out slowly and without the package's code."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils import comm

from mocodet.common.checkpoint import load_torch_file
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.methods import MemoryBank, memory_bank
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
    unit,
)
from tests.processes import run_in_processes

STEPS, IMAGES, NEGATIVES, BANK_MOMENTUM = 10, 20, 15, 0.3


def small_bank(groups: int = 1, images: int = IMAGES, negatives: int = NEGATIVES, seed: int = SEED) -> MemoryBank:
    return MemoryBank(
        small_encoder(groups),
        dataset_size=images,
        num_negatives=negatives,
        bank_momentum=BANK_MOMENTUM,
        dim=DIM,
        temperature=TEMPERATURE,
        seed=seed,
    )


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(12)
    return [
        {**batch, "index": torch.randperm(IMAGES, generator=generator)[:BATCH]}
        for batch in image_batches(("query",), STEPS)
    ]


def train_both_ways() -> dict[int, Training]:
    return {groups: train(small_bank(groups), batches()) for groups in (1, 2)}


def reference(devices: int) -> Training:
    """One image, one entry of the bank and one score at a time, on ``devices`` devices."""
    start = small_bank()
    f_q = on_devices(start.encoder_q, devices)
    bank = [entry.clone() for entry in start.bank]
    drawing = torch.Generator()
    drawing.set_state(start.state_dict()["_extra_state"])

    def step(batch):
        q = encode(f_q, batch["query"])
        negatives = torch.randint(IMAGES, (NEGATIVES,), generator=drawing).tolist()
        scores = []
        for query, image in zip(q, batch["index"].tolist(), strict=True):
            entries = [image] + [other for other in negatives if other != image]
            scores.append([torch.dot(query, bank[entry]) for entry in entries])
        for query, image in zip(q, batch["index"].tolist(), strict=True):
            bank[image] = unit(BANK_MOMENTUM * bank[image] + (1 - BANK_MOMENTUM) * query.detach())
        return contrast(scores)

    def state():
        return {"bank": torch.stack(bank), "_extra_state": drawing.get_state()}

    return slow_training(step, {"encoder_q": f_q}, batches(), state)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_memory_bank__agrees_with_the_definition_in_one_process(groups):
    assert_same_training(train(small_bank(groups), batches()), reference(groups), range(groups))


def test_memory_bank__agrees_with_the_definition_in_two_processes():
    trainings = run_in_processes(train_both_ways)
    for groups in (1, 2):
        assert_same_in_processes([found[groups] for found in trainings], reference(2 * groups))
        banks = [found[groups].states[-1]["bank"] for found in trainings]
        assert torch.equal(*banks)


def test_init__unit_vectors_apart_from_one_another():
    bank = small_bank(images=3000).bank
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(3000))
    assert bank.mean(dim=0).abs().max() < 5 / math.sqrt(3000 * DIM)  # 5 sigma
    assert len(bank.unique(dim=0)) == 3000
    assert torch.equal(bank, small_bank(images=3000).bank)
    assert not torch.equal(bank, small_bank(images=3000, seed=SEED + 1).bank)


def test_init__bank_of_several_parts(monkeypatch):
    monkeypatch.setattr(memory_bank, "ROWS_AT_ONCE", 7)
    torch.testing.assert_close(small_bank().bank.norm(dim=1), torch.ones(IMAGES))


def test_draw__uniform_over_the_bank_and_new_each_time():
    method = small_bank(negatives=20_000)
    first, second = method.draw(), method.draw()
    assert not torch.equal(first, second)
    counts = torch.bincount(first, minlength=IMAGES)
    assert len(counts) == IMAGES
    # Binomial with mean 1000 and sigma 31.
    assert (counts - 1000).abs().max() < 5 * 31


def test_logits__own_entry_is_no_negative():
    method = small_bank()
    q = F.normalize(torch.randn(2, DIM), dim=1)
    found = method.logits(q, torch.tensor([4, 9]), torch.tensor([9, 3, 4, 4])) * TEMPERATURE
    scores = q @ method.bank.T
    expected = [
        [scores[0, 4], scores[0, 9], scores[0, 3], -torch.inf, -torch.inf],
        [scores[1, 9], -torch.inf, scores[1, 3], scores[1, 4], scores[1, 4]],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_logits__float32_under_autocast():
    method = small_bank()
    arguments = F.normalize(torch.randn(4, DIM), dim=1), torch.arange(4), torch.arange(10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method.logits(*arguments)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, method.logits(*arguments))


def test_update__of_an_image_that_is_there_twice_the_last_row_counts():
    method = small_bank()
    before = method.bank.clone()
    index = torch.tensor([3, 5, 3, 7, 5, 3])
    q = F.normalize(torch.randn(6, DIM), dim=1)
    method.update(index, q)
    for image in range(IMAGES):
        rows = [row for row in range(6) if index[row] == image]
        mixed = BANK_MOMENTUM * before[image] + (1 - BANK_MOMENTUM) * q[rows[-1]] if rows else before[image]
        torch.testing.assert_close(method.bank[image], unit(mixed))


def test_fill__of_an_image_that_is_there_twice_the_last_row_counts():
    method = small_bank()
    batch = {"query": batches()[0]["query"], "index": torch.tensor([3, 5, 3, 7, 5, 3, 1, 2])}
    q = F.normalize(method.encoder_q(batch["query"]).detach(), dim=1)
    expected = method.bank.clone()
    for row, image in enumerate(batch["index"].tolist()):
        expected[image] = q[row]
    method.fill(batch)
    torch.testing.assert_close(method.bank, expected)


def test_state_dict__a_resumed_run_is_bit_identical(tmp_path):
    whole = small_bank()
    train(whole, batches()[:4])
    torch.save(whole.state_dict(), tmp_path / "half.pth")
    resumed = small_bank(seed=SEED + 1)
    state = load_torch_file(tmp_path / "half.pth")  # as `--resume` reads it: weights_only
    assert all(isinstance(value, torch.Tensor) for value in state.values())  # fvcore's checkpointer takes only these
    resumed.load_state_dict(state)
    mine, theirs = train(whole, batches()[4:]), train(resumed, batches()[4:])
    assert mine.outputs == theirs.outputs
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_bytes_per_image__are_those_of_an_entry():
    cfg = get_cfg()
    assert MemoryBank.bytes_per_image(cfg) * 10**9 == 512 * 10**9  # the paper's largest data set
    cfg.MODEL.DIM = DIM
    assert MemoryBank.bytes_per_image(cfg) * IMAGES == small_bank().bank.nbytes


def huge_bank(images: int, **settings) -> MemoryBank:
    return MemoryBank(small_encoder(1), dataset_size=images, dim=128, seed=SEED, **settings)


# The second could not be allocated anywhere: our own message shows that the code did not try.
@pytest.mark.parametrize("images", [100_000_000, 10**15])
def test_init__refuses_a_bank_that_does_not_fit(images, monkeypatch):
    monkeypatch.setattr(memory_bank, "available_bytes", lambda device: 50 * 10**9)
    with pytest.raises(ValueError, match=f"bank of {images} images x 128 .* 50.00 GB of cpu memory") as refused:
        huge_bank(images)
    assert f"{images * 512 / 1e9:.2f} GB in each process" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_check_bank_fits__logs_the_size_of_one_that_fits(monkeypatch, caplog):
    monkeypatch.setattr(memory_bank, "available_bytes", lambda device: 51_200_000_000)  # exactly
    with caplog.at_level(logging.INFO, logger="mocodet.pretrain"):
        memory_bank.check_bank_fits(100_000_000, 128, torch.device("cpu"))
    assert "100000000 images x 128 float32: 51.20 GB" in caplog.text


@pytest.mark.parametrize(("device", "share"), [("cpu", 60), ("cuda", 120)])  # processes on CUDA have a GPU each
def test_check_bank_fits__processes_share_a_machines_memory_and_give_one_answer(device, share, monkeypatch):
    monkeypatch.setattr(memory_bank, "available_bytes", lambda device: 120 * 10**9)
    monkeypatch.setattr(comm, "get_local_size", lambda: 2)
    others = 10**12
    monkeypatch.setattr(comm, "all_gather", lambda mine: [others, mine])
    fits, too_many = (share * 10**9 // 512 + more for more in (0, 1))
    memory_bank.check_bank_fits(fits, 128, torch.device(device))
    with pytest.raises(ValueError, match=f"{share}.00 GB of {device} memory available to each"):
        memory_bank.check_bank_fits(too_many, 128, torch.device(device))
    others = 10**9  # another process has less
    with pytest.raises(ValueError, match=f"1.00 GB of {device} memory available to each"):
        memory_bank.check_bank_fits(fits, 128, torch.device(device))
