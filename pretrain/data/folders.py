"""A folder of images, nested to any depth, without labels."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mocodet.common.formats.image import read_file, unreadable

from .decoding import EncodedImages, UnreadableImageError
from .exclusion import EVERYTHING, Exclusion
from .listing_cache import list_images

logger = logging.getLogger("mocodet.pretrain")


class ImageFiles(EncodedImages):
    """Image files in a given order, as RGB.

    Args:
        paths: the files.
        passed_over: number of other files in the folder.
        left_out: places of files that are not drawn (`Exclusion`).
        excluded: number of further excluded files, which have no place.
    """

    def __init__(
        self, paths: Sequence[str], passed_over: int = 0, left_out: frozenset[int] = frozenset(), excluded: int = 0
    ) -> None:
        self.paths = paths
        self.passed_over = passed_over
        self.left_out = left_out
        self.excluded = excluded

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, item: int) -> tuple[str, bytes]:
        """Return path and bytes of the file at a place."""
        path = self.paths[item]
        try:
            return path, read_file(path)
        except OSError as error:
            raise UnreadableImageError(unreadable(path, error), path) from error


class LabelledImages(NamedTuple):
    """A labelled data set from any source.

    Attributes:
        images: RGB images.
        labels: int64, N; indices into ``classes``.
        classes: names of all classes.
    """

    images: ImageFiles
    labels: torch.Tensor
    classes: list[str]


class ImageFolder(ImageFiles):
    """The images below a folder, with or without class folders, in the order of their paths, as RGB.

    ``passed_over`` counts the other files; hidden files and folders are ignored.

    Args:
        root: searched to any depth, links to folders included, for files with the suffix of a format that Pillow
            decodes.
        exclusion: files that have no place, and missing files that have one.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or holds no images.
        OSError: a folder cannot be searched.
        ValueError: all images are excluded.
    """

    def __init__(self, root: str | os.PathLike, exclusion: Exclusion = EVERYTHING) -> None:
        if not Path(root).is_dir():
            raise FileNotFoundError(f"DATA.ROOT {str(root)!r} is not a folder; give one that holds the training images")
        found = list_images(root)
        paths = sorted(path for listing in found for path in listing.paths(root))
        if not paths:
            raise FileNotFoundError(
                f"{root} holds no images; searched at any depth for .jpg, .png and other formats that Pillow reads"
            )
        others = sum(listing.others for listing in found)
        if exclusion == EVERYTHING:
            super().__init__(paths, others)
            return
        prefix = str(Path(root, "-"))[:-1]
        there = {path[len(prefix) :] for path in paths}
        names = exclusion.number(there)
        if not names:
            raise ValueError(f"DATA.EXCLUDE names every image of {root}; nothing is left to learn from")
        places, excluded = exclusion.places(names), len(there & exclusion.out)
        super().__init__([prefix + name for name in names], others, places, excluded)


def warn_of_passed_over(images: ImageFiles, where: str) -> None:
    """Log how many files of ``where`` are ignored because they are not images; a JSON's list has none."""
    if images.passed_over:
        logger.warning(f"{images.passed_over} files of {where} are not images (by extension); ignored")
