"""The plain step equals the trainer's; the bounds of a step come from its parts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mocodet.common.commands.benchmark import Case
from mocodet.pretrain.benchmark import step
from mocodet.pretrain.benchmark.convolutions import ConvolutionsAlone, convolutions_of, count_flops
from mocodet.pretrain.benchmark.plain_moco import PlainMoCo, PlainStep, top_accuracies
from tests.benchmarks import run_once

TINY = Case("resnet18", 32, 16)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cfg():
    with step.config_of(TINY, "cpu") as made:
        made.merge_from_list(["CONTRAST.QUEUE_SIZE", 48])
        yield made


def test_plain_step__learns_what_the_trainer_learns(cfg):
    cfg = step.varied(step.varied(cfg, "MODEL.BN_GROUPS", 1), "SOLVER.PRECISION", "float32")
    batch = step.first_batch(cfg)
    trainer = step.OneBatchTrainer(cfg, batch)
    plain = PlainMoCo(cfg.MODEL.ARCH, queue_size=cfg.CONTRAST.QUEUE_SIZE)
    begun = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    plain.load_state_dict(begun)
    plain_step, views = PlainStep(plain, lr=cfg.SOLVER.BASE_LR), step.plain_views(batch, CPU)
    for _ in range(2):
        trainer.run_step()
        loss = plain_step(*views)
        assert trainer.storage.history("loss").latest() == pytest.approx(loss, abs=1e-4)
    assert trainer.method.queue_ptr.item() == plain.queue_ptr.item() == 32
    theirs, ours = plain.state_dict(), trainer.method.state_dict()
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        if name not in dict(plain.encoder_q.named_parameters(prefix="encoder_q")):
            torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-3, msg=lambda m, at=name: f"{at}: {m}")
    # Rounding grows with every layer that a gradient passes, so the test compares how far all parameters moved.
    moved, apart = (
        sum((theirs[name] - other[name]).square().sum().item() for name, _ in plain.named_parameters()) ** 0.5
        for other in (begun, ours)
    )
    assert moved > 0.1
    assert apart < 0.02 * moved


def test_top_accuracies__count_by_hand():
    logits = torch.tensor([[3.0, 1, 2, 0], [0, 1, 2, 3], [1, 2, 0, 3], [2, 3, 1, 0]])
    # The first column is the largest of one row and among the first two of another.
    assert top_accuracies(logits, torch.zeros(4, dtype=torch.long), (1, 2)) == [25.0, 50.0]


def test_convolutions_alone__are_those_of_the_step():
    model = PlainMoCo("resnet18", queue_size=16)
    views = torch.randn(2, 2, 3, 32, 32)
    counter = FlopCounterMode(display=False)
    with counter:
        PlainStep(model)(*views)
    in_step = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    of_convolutions = sum(count for op, count in in_step.items() if "convolution" in op)
    assert 0 < of_convolutions < sum(in_step.values())
    found = convolutions_of(model.encoder_q, views[0])
    assert len(found) == 20  # those of a ResNet-18, including three of the shortcuts
    assert count_flops(ConvolutionsAlone(found, CPU, torch.float32)) == of_convolutions


def test_compare__has_a_row_for_each(cfg, monkeypatch):
    run_once(monkeypatch, step)
    monkeypatch.setattr(step, "peak_rate", lambda device, dtype: 1e12)
    rows = step.compare(cfg, TINY, pairs=1)
    assert rows[0].contestant == rows[0].reference == step.REFERENCE
    assert [row.contestant.startswith("mocodet") for row in rows] == [False, False, True, True, False]
    assert rows[-1].contestant == rows[0].limit
    assert rows[-1].share == 1.0
    assert all(row.unit == "images/s" and row.value > 0 for row in rows)


def test_compare_operations__names_the_longest_beside_the_whole_step(cfg):
    first, *others = step.compare_operations(cfg, TINY, steps=1)
    assert first.contestant == first.reference == step.WHOLE
    assert len(others) == 10
    values = [row.value for row in others]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0
    assert any("conv" in row.contestant for row in others)


def test_compare_queues__the_first_is_the_reference(cfg, monkeypatch):
    run_once(monkeypatch, step)
    monkeypatch.setattr(step, "copy_bandwidth", lambda device: 1e6)
    first, second = step.compare_queues(cfg, TINY, [64, 128], pairs=1)
    assert (first.contestant, second.contestant, second.reference) == ("K 64", "K 128", "K 64")
    assert first.details["more time"] == "+0%"
    # 128 numbers of 4 bytes a key, at 1 MB/s.
    assert [row.details["reading the queue once"] for row in (first, second)] == ["32.8 ms", "65.5 ms"]
