"""Determines the images of each training batch from the seed and the batch number."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from detectron2.utils import comm
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """An image drawn for training.

    Attributes:
        image: index of the image in the data set.
        number: number of the draw, which is unique across all processes.
    """

    image: int
    number: int


class TrainingOrder(Sampler[list[Draw]]):
    """This process's share of an endless stream of batches, which can start at any batch.

    To start at batch N, the indices of all earlier batches are generated again, which takes half a second per million.

    Args:
        indices: this process's share of an endless stream of data set indices, which detectron2's samplers distribute
            to the processes in turn. Each iteration over it must yield the same indices.
        batch_size: number of images per batch in this process.
        wide: whether each image of the data set is wider than it is high. Each batch then contains either only wide
            images or only others, and images wait until their batch is full, as in detectron2's
            ``AspectRatioGroupedDataset``. If None, images stay in the order in which they are drawn.

    Attributes:
        start: the number of the first batch to yield.
    """

    def __init__(self, indices: Iterable[int], batch_size: int, wide: Sequence[bool] | None = None) -> None:
        self._indices = indices
        self._batch_size = batch_size
        self._wide = wide
        self.start = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches, beginning with batch number ``start``."""
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
