"""The images to predict on: found in files and folders, read while the model computes, and batched."""

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

WAITING = 4  # how many batches of images may wait for others of their size


class ImageFile(NamedTuple):
    """A file and its name in the results: its path from the folder that all files have in common."""

    path: Path
    name: str


class Loaded(NamedTuple):
    """The file at an index of the list, read: its pixels and the model's input, or why it could not be read."""

    place: int
    pixels: np.ndarray | None  # H x W x 3, uint8, RGB; None if not asked for
    inputs: dict[str, Any] | None
    fault: str


def find_images(words: Sequence[str], leave_out: Path) -> tuple[Path, list[ImageFile]]:
    """Find the images that files and folders name, those in a folder by suffix and in order of name.

    Args:
        words: paths of images, with any suffix, and of folders, which are searched recursively except hidden ones.
        leave_out: a folder that is not searched, since the predictions may be beside the images.

    Returns:
        the folder that all have in common, and the images without duplicates.

    Raises:
        FileNotFoundError: there is no such file or folder.
        OSError: a folder cannot be searched.
        ValueError: there are no images.
    """
    found: dict[Path, None] = {}
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            found |= dict.fromkeys(_below(path, leave_out))
        elif path.exists():
            found[path] = None
        else:
            raise FileNotFoundError(
                f"there is no file or folder {word}; give images or folders of images, and after them pairs of KEY"
                " VALUE"
            )
    if not found:
        raise ValueError(
            f"{', '.join(words)} holds no images (files with a suffix such as .jpg, .png or .tif); name files with"
            " other suffixes one by one"
        )
    roots = [path if path.is_dir() else path.parent for path in map(Path, map(os.path.expanduser, words))]
    common = Path(os.path.commonpath([root.absolute() for root in roots]))
    return common, [ImageFile(path, path.absolute().relative_to(common).as_posix()) for path in found]


def _below(folder: Path, leave_out: Path) -> Iterator[Path]:
    seen, others = {leave_out.resolve()}, 0
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # a link may lead to an earlier folder
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in files if not name.startswith("."))
        images = [name for name in shown if name.lower().endswith(image_suffixes())]
        others += len(shown) - len(images)
        yield from (here / name for name in images)
    if others:
        logger.info(f"{folder}: {others:,} files are not images (by suffix); ignored")


def _refuse(error: OSError) -> None:
    raise error


def read_images(
    files: Sequence[ImageFile], prepare: Preparation, *, max_pixels: int, workers: int, keep_pixels: bool
) -> Iterator[Loaded]:
    """Read and prepare images in order, in ``workers`` processes; 0: in this process.

    Args:
        files: of `find_images`.
        prepare: of a `Predictor`.
        max_pixels: the largest allowed number of pixels; 0: no limit.
        workers: number of processes.
        keep_pixels: whether to return ``pixels``, for a picture.
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
        try:
            pixels = read_image(str(self.files[index].path), "RGB", self.max_pixels)
        except (OSError, ValueError) as error:
            return Loaded(index, None, None, str(error))
        return Loaded(index, pixels if self.keep_pixels else None, self.prepare(pixels), "")


def _as_it_is(item: Any) -> Any:
    return item


def in_batches(loaded: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Batch images with equal sizes as model inputs, so that no image needs padding.

    Args:
        loaded: the files read. A file that could not be read is a separate batch.
        size: of the batches. One is smaller if no more images have its size, or if too many others wait.
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
            yield waiting.pop(next(iter(waiting)))  # it has waited longest
    yield from waiting.values()
