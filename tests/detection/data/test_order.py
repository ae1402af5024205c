import itertools
from collections.abc import Sequence

import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from mocodet.detection.data.order import TrainingOrder

WIDE = [True, False, False, True, True, False, True]
BATCHES = 40


def slowly(stream: Sequence[int], size: int, wide: Sequence[bool] | None, rank: int, world: int) -> list[list[tuple]]:
    """List batches of (index, number) of one process: each shape divided into batches, ordered by their ends."""
    mine = [(index, number) for number, index in enumerate(stream) if number % world == rank]
    shapes = [mine] if wide is None else [[draw for draw in mine if wide[draw[0]] == shape] for shape in (True, False)]
    batches = [draws[begin : begin + size] for draws in shapes for begin in range(0, len(draws) - size + 1, size)]
    return sorted(batches, key=lambda batch: batch[-1][1])[:BATCHES]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("wide", [None, WIDE])
@pytest.mark.parametrize("repeated", [False, True])
def test_training_order__any_batch_is_that_of_a_slow_enumeration(monkeypatch, rank, world, wide, repeated):
    def sampler() -> torch.utils.data.Sampler:
        factors = torch.tensor([1.0, 2.5, 1.0, 1.3, 1.0, 1.0, 3.0])
        return RepeatFactorTrainingSampler(factors, seed=3) if repeated else TrainingSampler(len(WIDE), seed=3)

    stream = list(itertools.islice(sampler(), 500))  # of all processes: here is one
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world)
    expected = slowly(stream, 3, wide, rank, world)
    order = TrainingOrder(sampler(), 3, wide)
    for order.start in (0, 1, 17, BATCHES - 1, 4):  # in any order: earlier reads have no effect
        found = list(itertools.islice(order, BATCHES - order.start))
        assert found == expected[order.start :]


def test_training_order__groups_as_detectron2():
    records = [{"width": 2 if wide else 1, "height": 1, "index": index} for index, wide in enumerate(WIDE)]
    sampler = TrainingSampler(len(WIDE), seed=1)
    theirs = AspectRatioGroupedDataset(map(records.__getitem__, sampler), 2)
    for expected, found in itertools.islice(zip(theirs, TrainingOrder(sampler, 2, WIDE), strict=False), 20):
        assert [draw.image for draw in found] == [record["index"] for record in expected]
