"""A folder of images, searched recursively, without labels."""

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
    """RGB images from files in a given order.

    Args:
        paths: paths of the files.
        passed_over: number of other files in the folder.
        left_out: indices of files that are not loaded (`Exclusion`).
        excluded: number of additional excluded files, which have no index.
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
        """Return the path and the contents of the file at an index."""
        path = self.paths[item]
        try:
            return path, read_file(path)
        except OSError as error:
            raise UnreadableImageError(unreadable(path, error), path) from error


class LabelledImages(NamedTuple):
    """A labelled data set from any source.

    Attributes:
        images: RGB images.
        labels: indices into ``classes``, int64, N.
        classes: names of all classes.
    """

    images: ImageFiles
    labels: torch.Tensor
    classes: list[str]


class ImageFolder(ImageFiles):
    """RGB images below a folder, with or without class folders, sorted by path.

    ``passed_over`` counts all other files. Hidden files and folders are ignored.

    Args:
        root: folder to search recursively, following links to folders. Files are included if their extension is that of
            a format supported by Pillow.
        exclusion: files that have no index, and missing files that have one.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or contains no images.
        OSError: a folder cannot be searched.
        ValueError: all images are excluded.
    """

    def __init__(self, root: str | os.PathLike, exclusion: Exclusion = EVERYTHING) -> None:
        if not Path(root).is_dir():
            raise FileNotFoundError(f"DATA.ROOT {str(root)!r} is not a folder; expected a folder of training images")
        found = list_images(root)
        paths = sorted(path for listing in found for path in listing.paths(root))
        if not paths:
            raise FileNotFoundError(
                f"{root} contains no images; it was searched recursively for .jpg, .png and other formats that Pillow"
                " supports"
            )
        others = sum(listing.others for listing in found)
        if exclusion == EVERYTHING:
            super().__init__(paths, others)
            return
        prefix = str(Path(root, "-"))[:-1]
        there = {path[len(prefix) :] for path in paths}
        names = exclusion.number(there)
        if not names:
            raise ValueError(f"DATA.EXCLUDE lists every image of {root}; exclude fewer images")
        places, excluded = exclusion.places(names), len(there & exclusion.out)
        super().__init__([prefix + name for name in names], others, places, excluded)


def warn_of_passed_over(images: ImageFiles, where: str) -> None:
    """Log the number of files in ``where`` that are ignored because they are not images. JSON lists have none."""
    if images.passed_over:
        logger.warning(passed_over(images.passed_over, where))


def passed_over(count: int, where: str) -> str:
    """Return a message about files that are ignored."""
    remedy = "if some of them are photographs, for example in HEIC format, convert these to JPEG"
    return f"{count} files in {where} are not images (by extension); ignored; {remedy}"
