"""Loader processes, for training and for evaluation."""

from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from mocodet.common.allocator import return_freed_memory
from mocodet.common.errors import message_of
from mocodet.common.stopping import leave_signals_to_parent


def load_batches(dataset: Dataset, num_workers: int, **how: Any) -> Iterator[Any]:
    """Yield a `DataLoader`'s batches without using the process's random generator; ``how`` is passed to it.

    From then on, OpenCV computes on one thread in this process.

    Raises:
        ValueError: an image cannot be read; the message, one line, names it.
    """
    # OpenCV's threads do not survive a fork, and a process that was forked while they ran hangs in its first call.
    cv2.setNumThreads(1)
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        # The loader draws a seed for its workers, which must not change the state of the process's own generator.
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
    # Workers compute on one thread each and never touch the parent's OpenMP pool.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
