"""What is wrong with the files of a data set, in a form that one line can tell."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

Job = TypeVar("Job")
Found = TypeVar("Found")
Size = tuple[int, int]  # width, height, pixels

# Half-open or closed, counted from 0 or from 1: conventions differ by a pixel, and detectron2 clips what is that
# little outside.
TOLERANCE = 1.0
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Fault:
    """Something wrong: the file, and what is wrong with it and what to do, on one line that any terminal can show."""

    file: Path
    what: str

    def __str__(self) -> str:
        line = f"{self.file}: {self.what}"  # names in it may hold anything
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


@dataclass
class Tally:
    """What a check has looked at, for its summary; and what it noticed that is no fault."""

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ImageJob:
    """An image to decode.

    Attributes:
        path: the file.
        size: what it must measure once turned as its EXIF data say, as detectron2 turns it; None if nothing says.
        said_by: who says so.
        labels: the pixel values that an image of labels may have; None for a photograph.
    """

    path: Path
    size: Size | None = None
    said_by: str = "its annotation"
    labels: frozenset[int] | None = None


def check_images(jobs: Sequence[ImageJob], workers: int) -> Iterator[Fault]:
    """Decode every image, in ``workers`` processes (0: in this one); yield a fault for each that is wrong."""
    yield from in_processes(image_fault, jobs, workers, "images")


def in_processes(look: Callable[[Job], Found | None], jobs: Sequence[Job], workers: int, what: str) -> Iterator[Found]:
    """Yield what ``look`` finds in ``jobs``, if anything, in their order; ``workers`` as in `check_images`."""
    progress = partial(tqdm, total=len(jobs), desc=what, disable=None)
    if workers == 0 or not jobs:
        found: Iterable[Found | None] = map(look, jobs)
        yield from filter(None, progress(found))
        return
    # spawn: a forked child of a process with threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from filter(None, progress(pool.map(look, jobs, chunksize=32)))


def image_fault(job: ImageJob) -> Fault | None:
    """Decode one image; return what is wrong with it, if anything is."""
    try:
        with Image.open(job.path) as image:
            image.load()
            size = _turned_size(image)
            values = None if job.labels is None else _label_values(image)
    except MemoryError:
        raise
    except FileNotFoundError:
        return Fault(job.path, "is missing; unpack its archive again with --again")
    except Exception as error:  # damaged bytes make decoders raise almost anything
        return Fault(
            job.path,
            f"cannot be decoded ({str(error) or type(error).__name__}); unpack its archive with --again, fetch it again"
            " or leave it out",
        )
    if job.size is not None and size != job.size:
        return Fault(
            job.path, f"is {_by(size)}, but {job.said_by} says {_by(job.size)}; one of them is another image's"
        )
    if job.labels is not None and values is None:
        return Fault(job.path, "holds colours, not class indices; labels are PNGs with a palette or of 8-bit grey")
    if job.labels is not None and (unknown := sorted(values - job.labels)):
        return Fault(job.path, f"has the label {unknown[0]}, which stands for no class; known are {ranges(job.labels)}")
    return None


def box_fault(corners: Sequence[float], size: Size | None) -> str | None:
    """Say what is wrong with a box of ``corners`` (x0, y0, x1, y1), pixels, in an image of ``size``, if anything is.

    Of an inside-out box only that is said. ``size`` None: nothing says how large the image is.
    """
    x0, y0, x1, y1 = corners
    if not all(map(math.isfinite, corners)):
        return "is not finite"
    if x1 < x0 or y1 < y0:
        return "is inside out"
    if x1 == x0 or y1 == y0:
        return "is empty; correct or remove it"
    if size is not None and not lies_inside([x0, x1], [y0, y1], size):
        return f"is not inside the image, which is {_by(size)}"
    return None


def lies_inside(xs: Sequence[float], ys: Sequence[float], size: Size) -> bool:
    """Tell whether points lie inside an image of ``size``, or not further outside than ``TOLERANCE``, pixels."""
    return (
        min(xs) >= -TOLERANCE
        and min(ys) >= -TOLERANCE
        and max(xs) <= size[0] + TOLERANCE
        and max(ys) <= size[1] + TOLERANCE
    )


def count_fault(file: Path, what: str, found: int, expected: int) -> Iterator[Fault]:
    """Yield a fault unless there are as many as in the published data set."""
    if found != expected:
        yield Fault(
            file,
            f"counts differ: {found:,} {what}, the published data set has {expected:,}; unpack it again with"
            " --again, or give --any-size if this is a part of it",
        )


def repeated(values: Iterable[object]) -> list[object]:
    """Return the values that occur more than once, each once."""
    return [value for value, count in Counter(values).items() if count > 1]


def files_below(folder: Path, suffixes: Sequence[str] = ()) -> set[str]:
    """Return the names of the files directly in ``folder``, of those ``suffixes`` only; no folder, no names."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:  # a folder may hold a hundred thousand
        names = {entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()}
    return {name for name in names if not suffixes or name.endswith(tuple(suffixes))}


def ranges(values: Iterable[int]) -> str:
    """Write whole numbers as ranges: ``0-20, 255``."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def image_size(path: Path) -> Size | None:
    """Return what an image measures, as detectron2 turns it, without decoding it; None if it is none."""
    try:
        with Image.open(path) as image:
            return _turned_size(image)
    except MemoryError:
        raise
    except Exception:  # damaged bytes make decoders raise almost anything
        return None


def _turned_size(image: Image.Image) -> Size:
    # Orientations 5 to 8 swap the sides.
    return image.size[::-1] if image.getexif().get(EXIF_ORIENTATION, 1) >= 5 else image.size


def _label_values(image: Image.Image) -> set[int] | None:
    if image.mode not in ("P", "L") and not image.mode.startswith("I"):
        return None
    return set(np.unique(np.asarray(image)).tolist())


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
