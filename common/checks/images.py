"""Checks that image files can be decoded and have the expected size."""

import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.findings import Finding
from mocodet.common.formats.image import (
    Size,
    decode_pixels,
    image_size,
    open_file,
    read_file,
    reason_of,
    size_fault,
    unreadable,
)
from mocodet.common.progress import progress

from .findings import Fault, Tally

PUBLISHED = " (if it is part of a published data set, --again unpacks it again)"

Job = TypeVar("Job")
Found = TypeVar("Found")


@dataclass(frozen=True)
class ImageJob:
    """An image to decode.

    Attributes:
        path: the file.
        size: expected size after EXIF rotation, as in detectron2; None if unknown.
        said_by: source of the expected size.
        labels: values that a label image may have; None for a photograph.
    """

    path: Path
    size: Size | None = None
    said_by: str = "its annotation"
    labels: frozenset[int] | None = None


def check_images(jobs: Sequence[ImageJob], tally: Tally, workers: int) -> Iterator[Finding]:
    """Decode all images in ``workers`` processes (0: in this process), and yield an error for each invalid image."""
    tally.counts.update("images" if job.labels is None else "masks" for job in jobs)
    yield from in_processes(partial(image_fault, max_pixels=tally.max_pixels), jobs, workers, "images")


def in_processes(look: Callable[[Job], Found | None], jobs: Sequence[Job], workers: int, what: str) -> Iterator[Found]:
    """Yield the results of ``look`` for ``jobs`` in order, without None; for ``workers``, see `check_images`."""
    if workers == 0 or not jobs:
        yield from filter(None, progress(map(look, jobs), what, len(jobs)))
        return
    # Use spawn, because a forked child of a process with threads may hang. Children ignore Ctrl-C; only this process
    # reports it.
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from filter(None, progress(pool.map(look, jobs, chunksize=32), what, len(jobs)))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process that read files was killed; unless someone killed it, memory ran out. Lower --workers, and"
                " run the command again"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def image_fault(job: ImageJob, max_pixels: int = MAX_PIXELS) -> Finding | None:
    """Decode an image as in a run; return its error, if any.

    For ``max_pixels``, see `mocodet.common.formats.image.decode_rgb`.
    """
    try:
        size, values = _look_at(job, max_pixels)
    except FileNotFoundError:
        return Fault(job.path, f"is missing; add the file{PUBLISHED}")
    except (OSError, ValueError) as error:
        return Fault(job.path, f"{reason_of(job.path, error)}{PUBLISHED}")
    if job.size is not None and size != job.size:
        return size_fault(job.path, size, job.size, job.said_by)
    if job.labels is None:
        return None
    if values is None:
        return Fault(
            job.path, "contains colours instead of class indices; labels must be palette or 8-bit greyscale PNGs"
        )
    if unknown := sorted(values - job.labels):
        return Fault(
            job.path, f"has the label {unknown[0]}, which is not a class; valid labels are {ranges(job.labels)}"
        )
    return None


def _look_at(job: ImageJob, max_pixels: int) -> tuple[Size, set[int] | None]:
    """Decode an image; return its size and, for a label image, its values (None if it contains colours).

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the image cannot be decoded, or is too large.
    """
    if job.labels is None:
        height, width, _ = decode_pixels(read_file(job.path), str(job.path), max_pixels).shape
        return (width, height), None
    try:
        with open_file(job.path) as handle, Image.open(handle) as image:
            image.load()
            return image.size, _label_values(image)
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # decoders raise almost any exception for damaged data
        raise ValueError(unreadable(job.path, error)) from error


def files_below(folder: Path, suffix: str = "") -> set[str]:
    """Return the names of the files directly in ``folder`` that end with ``suffix``; none if it does not exist."""
    try:
        if not folder.is_dir():
            return set()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no folder can have such a long name
            return set()
        raise
    with os.scandir(folder) as entries:  # a folder may contain a hundred thousand files
        return {
            entry.name
            for entry in entries
            if entry.name.endswith(suffix) and not entry.name.startswith(".") and entry.is_file()
        }


def ranges(values: Iterable[int]) -> str:
    """Format integers as ranges, such as ``0-20, 255``."""
    # Within a range, the difference between a value and its position is constant.
    places = count()
    runs = [list(run) for _, run in groupby(sorted(values), key=lambda value: value - next(places))]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def known_size(path: Path) -> Size | None:
    """Return the size of an image after rotation, as in a run, without decoding it; None if it cannot be read."""
    try:
        return image_size(path)
    except (OSError, ValueError):
        return None


def _label_values(image: Image.Image) -> set[int] | None:
    if image.mode not in ("P", "L") and not image.mode.startswith("I"):
        return None
    return set(np.unique(np.asarray(image)).tolist())
