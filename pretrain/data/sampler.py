"""The order of images: shuffled epochs that can be resumed at any point."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler

from .views import mix


class GlobalBatches(Sampler[list[tuple[Any, int]]]):
    """An endless stream of whole batches, shared by the processes, that can be resumed at any iteration.

    A batch is a list of pairs ``(item, draw)``: ``item`` is the key of the image in `Views`, and ``draw`` is the place
    in the stream, which never repeats. A subclass defines ``__iter__``, which yields this process's part of each batch
    from ``start_iteration`` on, and extends ``state_dict``.

    Args:
        dataset_size: number of images.
        batch_size: images in a batch, over all processes.
        seed: the same in all processes.
        source: the subject of messages about the number of images.

    Attributes:
        RESUME_WITH: the settings that a resumed run must keep, for messages.
        iterations_per_epoch: whole batches in the data set.
        rows: images of a batch in this process.
        start_iteration: the first iteration to yield. Negative ones lie in epochs before the first; their batches are
            shuffled like all others, and training uses none of them.

    Raises:
        ValueError: the batch is larger than the data set, or does not divide evenly among the processes.
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
            raise ValueError(f"SOLVER.IMS_PER_BATCH {batch_size} is not divisible by the number of processes, {world}")
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
            ValueError: something in ``state_dict`` differs; the message names it.
        """
        mine = self.state_dict()
        if changed := [key for key in {**mine, **state} if mine.get(key) != state.get(key)]:
            then, now = ({key: values.get(key) for key in changed} for values in (state, mine))
            raise ValueError(
                f"the checkpoint was written with {then}, this run has {now} and would see other images; resume with"
                f" the same {self.RESUME_WITH}, or start a new run in another OUTPUT_DIR"
            )


class EpochSampler(GlobalBatches):
    """An endless stream of batches of places in a data set, each epoch a new permutation of it.

    The stream depends on ``seed`` alone: iteration ``i`` has the same images regardless of the iteration at which the
    run began and of the number of processes that share a batch. Images left over when the batch does not divide the
    data set are left to later epochs, as with ``drop_last`` in the original code.

    Args:
        dataset_size, batch_size, seed: see `GlobalBatches`, also for the errors.
        identity: hash of the images and their order. A run cannot resume with others, since an entry of a memory bank
            or a label would then belong to another image.
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
