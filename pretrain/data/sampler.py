"""The order of images: shuffled epochs, any point of which can be resumed."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler

from .views import mix


class GlobalBatches(Sampler[list[tuple[Any, int]]]):
    """An endless stream of whole batches, shared by the processes, that can be resumed at any iteration.

    A batch is a list of pairs ``(item, draw)``: what `Views` finds the image by, and the place in the stream, unlike in
    any other batch. A subclass gives ``__iter__``, which yields this process's part of each batch from
    ``start_iteration`` on, and adds to ``state_dict``.

    Args:
        dataset_size: number of images.
        batch_size: images in a batch, over all processes.
        seed: the same in all processes.
        source: what has the images, for messages.

    Attributes:
        RESUME_WITH: what must be the same for the stream to be, for messages.
        iterations_per_epoch: whole batches in the data set.
        rows: images of a batch that are this process's.
        start_iteration: the first one to yield. Below 0 it lies in the epochs before the first, whose batches are like
            all others, and none of them is a batch of the training.

    Raises:
        ValueError: the batch is larger than the data set, or does not divide between the processes.
    """

    RESUME_WITH: ClassVar[str]

    def __init__(self, dataset_size: int, batch_size: int, seed: int, source: str) -> None:
        world = comm.get_world_size()
        if dataset_size < batch_size:
            raise ValueError(
                f"{source} {dataset_size} images, fewer than one batch of SOLVER.IMS_PER_BATCH {batch_size}; lower it"
                " or add images"
            )
        if batch_size % world:
            raise ValueError(f"SOLVER.IMS_PER_BATCH {batch_size} does not divide between {world} processes")
        self.dataset_size = dataset_size
        self.batch_size = batch_size
        self.seed = seed
        self.iterations_per_epoch = dataset_size // batch_size
        self.rows = batch_size // world
        self.start_iteration = 0

    def state_dict(self) -> dict[str, int | str]:
        """Return what the meaning of an iteration number depends on."""
        return {"dataset_size": self.dataset_size, "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Check that this sampler continues the stream of the one that ``state`` came from.

        Raises:
            ValueError: something in ``state_dict`` is another; the message says what.
        """
        mine = self.state_dict()
        if changed := [key for key in {**mine, **state} if mine.get(key) != state.get(key)]:
            then, now = ({key: values.get(key) for key in changed} for values in (state, mine))
            raise ValueError(
                f"the checkpoint was written with {then}, this run has {now}, and would see other images; resume with"
                f" the same {self.RESUME_WITH}, or start anew in another OUTPUT_DIR"
            )


class EpochSampler(GlobalBatches):
    """An endless stream of batches of places in a data set, each epoch a new permutation of it.

    The stream is a function of ``seed`` alone: iteration ``i`` has the same images at whatever iteration the run
    began and however many processes share a batch. Images left over when the batch does not divide the data set wait
    for a later epoch, as with ``drop_last`` in the original code.

    Args:
        dataset_size, batch_size, seed: see `GlobalBatches`, which says what is refused, too.
        identity: of the images and their order; a run is not continued with others, since a place in a memory bank or a
            class would then be another image's.
    """

    RESUME_WITH = "data (DATA.EXCLUDE lists files that were removed since), SOLVER.IMS_PER_BATCH and SEED"

    def __init__(self, dataset_size: int, batch_size: int, seed: int, identity: str = "") -> None:
        super().__init__(dataset_size, batch_size, seed, "the data set has")
        self.identity = identity

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield this process's part of each batch from ``start_iteration`` on, as pairs ``(index, draw)``."""
        epoch, first = divmod(self.start_iteration, self.iterations_per_epoch)
        while True:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            order = torch.randperm(self.dataset_size, generator=generator)
            for batch in range(first, self.iterations_per_epoch):
                begin = batch * self.batch_size + comm.get_rank() * self.rows
                draw = epoch * self.iterations_per_epoch * self.batch_size + begin
                yield [(index, draw + row) for row, index in enumerate(order[begin : begin + self.rows].tolist())]
            epoch, first = epoch + 1, 0

    def state_dict(self) -> dict[str, int | str]:
        """Return what the meaning of an iteration number depends on."""
        return {**super().state_dict(), "images": self.identity}
