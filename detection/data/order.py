"""Which images are in which batch of the training: a function of the seed and the batch's number."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from detectron2.utils import comm
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """An image that has been drawn.

    Attributes:
        image: its index in the data set.
        number: unique number of the draw, in the stream of all processes.
    """

    image: int
    number: int


class TrainingOrder(Sampler[list[Draw]]):
    """This process's part of an endless stream of batches, which can start at any batch.

    To start at batch N, the earlier batches are drawn again: only indices, a million in half a second.

    Args:
        indices: this process's part of an endless stream of indices into the data set, which detectron2's samplers deal
            out to the processes in turn. Each iteration over it yields the same indices.
        batch_size: number of images in one of this process's batches.
        wide: whether each image of the data set is wider than high. Each batch has only wide or only other images;
            images wait until their batch is full, as in detectron2's ``AspectRatioGroupedDataset``. None: images stay
            in the order of the draws.

    Attributes:
        start: the number of the first batch to yield.
    """

    def __init__(self, indices: Iterable[int], batch_size: int, wide: Sequence[bool] | None = None) -> None:
        self._indices = indices
        self._batch_size = batch_size
        self._wide = wide
        self.start = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches from ``start`` on."""
        return itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[Draw]]:
        numbers = itertools.count(comm.get_rank(), comm.get_world_size())
        waiting: dict[bool, list[Draw]] = {False: [], True: []}
        for draw in map(Draw, self._indices, numbers):
            alike = waiting[self._wide is not None and bool(self._wide[draw.image])]
            alike.append(draw)
            if len(alike) == self._batch_size:
                yield alike.copy()
                alike.clear()
