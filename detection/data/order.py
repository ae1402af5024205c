"""Which images are in which batch of a fine-tuning: a function of the seed and the batch's number."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from detectron2.utils import comm
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """An image that has been drawn.

    Attributes:
        image: its place in the data set.
        number: of the draw, in the stream of all processes; unlike any other.
    """

    image: int
    number: int


class TrainingOrder(Sampler[list[Draw]]):
    """This process's part of an endless stream of batches, which can be entered at any of them.

    To enter it at batch N, the batches before are drawn again: indices only, a million in half a second.

    Args:
        indices: this process's part of an endless stream of places in the data set, as detectron2's samplers divide it:
            by turns. Whenever it is iterated over, it yields the same.
        batch_size: images of one of this process's batches.
        wide: whether each image of the data set is wider than high. All images of a batch are alike in this; the others
            wait for one of theirs, as in detectron2's ``AspectRatioGroupedDataset``. None: images come as they are
            drawn.

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
