"""Data-loader processes for training and evaluation."""

from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from mocodet.common.allocator import return_freed_memory
from mocodet.common.errors import message_of
from mocodet.common.stopping import leave_signals_to_parent


def load_batches(dataset: Dataset, num_workers: int, **how: Any) -> Iterator[Any]:
    """Yield the batches of a `DataLoader` without using this process's random generator. ``how`` is passed to it.

    This function also limits OpenCV to a single thread in this process.

    Raises:
        ValueError: an image cannot be read. The message is a single line with the name of the image.
    """
    # OpenCV's threads do not survive a fork, and a process forked while they run would hang in its first OpenCV call.
    cv2.setNumThreads(1)
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        # The loader draws a seed for its workers, which must not change the state of this process's generator.
        generator=torch.Generator(),
        worker_init_fn=_begin if num_workers else None,
        **how,
    )
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(message_of(error)) from error


def _begin(_: int) -> None:
    leave_signals_to_parent()
    return_freed_memory()
    # Workers use a single thread each and never access the parent's OpenMP pool.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
