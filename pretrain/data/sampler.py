"""The order of images: shuffled epochs that can be resumed at any iteration."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler

from .views import mix


class GlobalBatches(Sampler[list[tuple[Any, int]]]):
    """An endless stream of complete batches, shared between processes, that can be resumed at any iteration.

    A batch is a list of pairs ``(item, draw)``, where ``item`` is the key of an image in `Views`, and ``draw`` is the
    position in the stream, which is unique. A subclass defines ``__iter__``, which yields this process's part of each
    batch from ``start_iteration`` on, and extends ``state_dict``.

    Args:
        dataset_size: number of images.
        batch_size: number of images per batch over all processes.
        seed: seed of the order, which must be the same in all processes.
        source: subject and verb of messages about the number of images.

    Attributes:
        RESUME_WITH: settings that must not change in a resumed run, for messages.
        iterations_per_epoch: number of complete batches in the data set.
        rows: number of images per batch in this process.
        start_iteration: the first iteration to yield. Negative iterations are in epochs before the first one. Their
            batches are shuffled like all others, but are not used for training.

    Raises:
        ValueError: the batch is larger than the data set, or cannot be divided evenly among the processes.
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
        """Return the values that determine which images belong to an iteration."""
        return {"dataset_size": self.dataset_size, "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Check that this sampler continues the stream of the sampler that saved ``state``.

        Raises:
            ValueError: a value of ``state_dict`` differs. The message contains it.
        """
        mine = self.state_dict()
        if changed := [key for key in {**mine, **state} if mine.get(key) != state.get(key)]:
            then, now = ({key: values.get(key) for key in changed} for values in (state, mine))
            raise ValueError(
                f"the checkpoint was written with {then}, but this run has {now} and would use different images; resume"
                f" with the same {self.RESUME_WITH}, or start a new run in another OUTPUT_DIR"
            )


class EpochSampler(GlobalBatches):
    """An endless stream of batches of indices into a data set, with a new permutation in each epoch.

    The stream depends only on ``seed``: iteration ``i`` has the same images regardless of the iteration at which the
    run started and of the number of processes. If the batch size does not divide the number of images, the remaining
    images are left to later epochs, as with ``drop_last`` in the original code.

    Args:
        dataset_size, batch_size, seed: see `GlobalBatches`, which also lists the errors.
        identity: hash of the images and their order. A run cannot be resumed with different images, because memory bank
            entries and labels would then belong to other images.
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
        """Return the values that determine which images belong to an iteration."""
        return {**super().state_dict(), "images": self.identity}
