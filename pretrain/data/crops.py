"""Labelled images for data without class folders: crops of bounding boxes from a detection data set."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from mocodet.common.formats.boxes import BoxedImage, read_boxes
from mocodet.common.formats.hold_out import HoldOut
from mocodet.common.formats.image import image_size
from mocodet.common.text import first_few

from .folders import ImageFiles, LabelledImages

logger = logging.getLogger("mocodet.pretrain")

SLACK = 0.01  # pixels; rounding error of an integer coordinate that was stored as a fraction of the image size
TINY = 16  # pixels; crops with a shorter side are too small to be useful
QUERIES = HoldOut(0.25, "queries")  # selects the images whose boxes are queries; the boxes of all others are neighbours

Edges = tuple[int, int, int, int]  # left, top, right, bottom


class BoxCrops(ImageFiles):
    """Crops of images to given bounding boxes. Boxes of the same image should be adjacent for speed.

    Args:
        paths: path of the image for each box.
        boxes: edges of each box, which must be inside the image.
    """

    def __init__(self, paths: Sequence[str], boxes: Sequence[Edges]) -> None:
        super().__init__(paths)
        self.boxes = boxes
        self._last: tuple[str, Image.Image] | None = None

    def __getitem__(self, item: int) -> Image.Image:
        """Return a crop as a Pillow image."""
        path = self.paths[item]
        if self._last is None or self._last[0] != path:  # decode an image with multiple boxes only once
            self._last = path, super().__getitem__(item)
        return self._last[1].crop(self.boxes[item])

    def pixels(self, item: int) -> np.ndarray:
        """Return a crop as an array, H x W x 3, uint8."""
        return np.asarray(self[item])


def read_crops(entry: object, key: str) -> tuple[LabelledImages, LabelledImages]:
    """Read crops to classify and crops to compare them with. No image contributes to both.

    A hash of the image's file name determines the side, which makes the split the same in all runs.

    Args:
        entry: description of a detection data set; see `read_boxes`.
        key: name of the entry in messages.

    Returns:
        the neighbours, and the queries, which come from about a quarter of the images. Both have the same classes.

    Raises:
        FileNotFoundError, ValueError: an image is missing or invalid, there are fewer than two classes, or one side is
            empty; see also `read_boxes`.
    """
    images = sorted(read_boxes(entry, key), key=lambda image: image.path)
    all_crops = [crop for image in images for crop in _crops_of(image, key)]
    crops = [crop for crop in all_crops if min(crop.sides) >= TINY]
    asked = [crop for crop in crops if QUERIES.takes(crop.path.name, "test")]
    others = [crop for crop in crops if not QUERIES.takes(crop.path.name, "test")]
    classes = sorted({crop.name for crop in crops})
    logger.info(
        f"{key}: comparing {len(asked):,} boxes with {len(others):,} boxes of other images, in {len(classes)} classes;"
        f" skipping {len(all_crops) - len(crops):,} boxes with a side of less than {TINY} pixels"
    )
    if len(classes) < 2:
        raise ValueError(f"{key} only contains boxes of {first_few(classes)}; expected at least two classes")
    if not asked or not others:
        raise ValueError(f"{key} has {len(images)} images, too few to compare boxes between different images")
    if unmatched := sorted({crop.name for crop in asked} - {crop.name for crop in others}):
        logger.warning(f"{key}: boxes of {first_few(unmatched)} cannot be classified correctly (no neighbours)")
    return _labelled(others, classes), _labelled(asked, classes)


class _Crop(NamedTuple):
    path: Path
    name: str
    edges: Edges

    @property
    def sides(self) -> tuple[int, int]:
        left, top, right, bottom = self.edges
        return right - left, bottom - top


def _crops_of(image: BoxedImage, key: str) -> Iterator[_Crop]:
    """Yield the boxes of an image, rounded to integer pixels inside the image."""
    if not image.boxes:
        return
    try:
        width, height = image_size(image.path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key} contains boxes for {image.path}, which does not exist; restore it") from error
    for box in image.boxes:
        left, top, right, bottom = box.edges
        first = max(math.floor(left + SLACK), 0), max(math.floor(top + SLACK), 0)
        edges = (*first, min(math.ceil(right - SLACK), width), min(math.ceil(bottom - SLACK), height))
        if edges[0] >= edges[2] or edges[1] >= edges[3]:
            raise ValueError(
                f"{key}: {image.path} ({width} x {height} pixels) has a box of {box.name} outside the image,"
                f" {', '.join(f'{edge:g}' for edge in box.edges)}; correct or remove it"
            )
        yield _Crop(image.path, box.name, edges)


def _labelled(crops: Sequence[_Crop], classes: Sequence[str]) -> LabelledImages:
    place = {name: number for number, name in enumerate(classes)}
    images = BoxCrops([str(crop.path) for crop in crops], [crop.edges for crop in crops])
    return LabelledImages(images, torch.tensor([place[crop.name] for crop in crops]), list(classes))
