"""Finds the images to predict on in files and folders, reads them while the model runs, and batches them."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mocodet.common.formats.image import image_suffixes

from ..data.images import read_image
from .predictor import Preparation

logger = logging.getLogger(__name__)

WAITING = 4  # maximum number of images that wait for others of their size, in batches


class ImageFile(NamedTuple):
    """A file and its name in the results, which is the path relative to the common folder of all files."""

    path: Path
    name: str


class Loaded(NamedTuple):
    """A file that was read: its index, its pixels and the model's input, or the reason why it could not be read."""

    place: int
    pixels: np.ndarray | None  # H x W x 3, uint8, RGB; None if not requested
    inputs: dict[str, Any] | None
    fault: str


def find_images(words: Sequence[str], leave_out: Path) -> tuple[Path, list[ImageFile]]:
    """Find images in files and folders. In folders, images are found by extension and sorted by name.

    Args:
        words: paths of images, with any extension, and of folders, which are searched recursively except for hidden
            files and folders.
        leave_out: a folder that is not searched, because the predictions may be stored beside the images.

    Returns:
        the common folder of all images, and the images without duplicates.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        OSError: a folder cannot be searched.
        ValueError: no images were found.
    """
    found: dict[Path, Path] = {}  # the first spelling of each path
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            images = _below(path, leave_out)
        elif path.exists():
            images = iter([path])
        else:
            raise FileNotFoundError(
                f"the file or folder {word} does not exist; specify images or folders of images, followed by pairs of"
                " KEY VALUE"
            )
        for image in images:
            found.setdefault(_normalised(image), image)
    if not found:
        raise ValueError(
            f"{', '.join(words)} contains no images (files with an extension such as .jpg, .png or .tif); specify files"
            " with other extensions individually"
        )
    roots = [path if path.is_dir() else path.parent for path in map(Path, map(os.path.expanduser, words))]
    common = Path(os.path.commonpath(map(_normalised, roots)))
    return common, [ImageFile(path, place.relative_to(common).as_posix()) for place, path in found.items()]


def _normalised(path: Path) -> Path:
    """Return an absolute path without ``..``, which would let the name of a prediction leave the output folder."""
    return Path(os.path.normpath(path.absolute()))


def _below(folder: Path, leave_out: Path) -> Iterator[Path]:
    seen, others = {leave_out.resolve()}, 0
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # a link may point to an earlier folder
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in files if not name.startswith("."))
        images = [name for name in shown if name.lower().endswith(image_suffixes())]
        others += len(shown) - len(images)
        yield from (here / name for name in images)
    if others:
        logger.info(f"{folder}: ignoring {others:,} files without an image extension")


def _refuse(error: OSError) -> None:
    raise error


def read_images(
    files: Sequence[ImageFile], prepare: Preparation, *, max_pixels: int, workers: int, keep_pixels: bool
) -> Iterator[Loaded]:
    """Read and prepare images in order, in ``workers`` processes, or in this process if that is 0.

    Args:
        files: the result of `find_images`.
        prepare: the attribute ``prepare`` of a `Predictor`.
        max_pixels: the maximum number of pixels; 0 means no limit.
        workers: number of processes.
        keep_pixels: whether to return ``pixels``, on which predictions are drawn.
    """
    reading = _Reading(files, prepare, max_pixels, keep_pixels)
    yield from DataLoader(reading, batch_size=None, num_workers=min(workers, len(files)), collate_fn=_as_it_is)


@dataclass
class _Reading(Dataset[Loaded]):
    files: Sequence[ImageFile]
    prepare: Preparation
    max_pixels: int
    keep_pixels: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Loaded:
        path = str(self.files[index].path)
        try:
            pixels = read_image(path, "RGB", self.max_pixels)
        except (OSError, ValueError) as error:
            return Loaded(index, None, None, str(error))
        try:
            inputs = self.prepare(pixels)
        except ValueError as error:  # a side of an elongated image would be 0 pixels
            height, width = pixels.shape[:2]
            return Loaded(index, None, None, f"{path} ({width} x {height} pixels) cannot be resized: {error}")
        return Loaded(index, pixels if self.keep_pixels else None, inputs, "")


def _as_it_is(item: Any) -> Any:
    return item


def in_batches(loaded: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Batch images whose model inputs have the same size, so that no image requires padding.

    Args:
        loaded: the files that were read. A file that could not be read forms a separate batch.
        size: number of images per batch. A batch is smaller if there are no more images of the same size, or if too
            many other images are waiting.
    """
    waiting: dict[tuple[int, ...], list[Loaded]] = {}
    for item in loaded:
        if item.inputs is None:
            yield [item]
            continue
        shape = tuple(item.inputs["image"].shape)
        waiting.setdefault(shape, []).append(item)
        if len(waiting[shape]) == size:
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) >= WAITING * size:
            yield waiting.pop(next(iter(waiting)))  # the batch that has waited longest
    yield from waiting.values()
