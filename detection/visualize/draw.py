"""Draws an image's ground truth beside the predictions of multiple runs, with detectron2's ``Visualizer``."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.visualizer import VisImage, Visualizer
from pycocotools import mask as mask_util

from ..data.classes import class_colours
from ..evaluation.things import Thing

LONGER_SIDE = 400  # pixels; smaller images are enlarged by an integer factor so that labels are legible
TITLE_HEIGHT = 24  # pixels
GAP = 6  # pixels between two columns
OPACITY = 0.5


def draw_columns(
    image: np.ndarray, columns: Sequence[tuple[str, Sequence[Thing]]], names: Sequence[str], metadata: Metadata
) -> np.ndarray:
    """Draw an image once per column, from left to right, with the column's things on it and its title above.

    A class has the same colour in every column and every output image. The same arguments produce the same pixels.

    Args:
        image: H x W x 3, uint8, RGB.
        columns: title and things to draw for each column.
        names: the class names.
        metadata: the metadata of the data set, of which ``thing_colors`` or ``stuff_colors`` and the keypoint names are
            used.

    Returns:
        an image (uint8, RGB) of (TITLE_HEIGHT + S H) x (columns (S W + GAP) - GAP) x 3, where S is the scale.

    Raises:
        ValueError: the size of a mask differs from that of the image.
    """
    panels = [
        np.concatenate((_draw_title(title, panel.shape[1]), panel))
        for title, panel in ((title, draw_things(image, things, names, metadata)) for title, things in columns)
    ]
    gap = np.full((len(panels[0]), GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=1)


def draw_things(image: np.ndarray, things: Sequence[Thing], names: Sequence[str], metadata: Metadata) -> np.ndarray:
    """Draw things on an image. The arguments are those of `draw_columns`.

    Returns:
        an image (uint8, RGB) of S H x S W x 3, where the scale S enlarges small images.

    Raises:
        ValueError: the size of a mask differs from that of the image.
    """
    canvas = Visualizer(image, metadata, scale=max(1, -(-LONGER_SIDE // max(image.shape[:2]))))
    colours = class_colours(names, metadata)
    for thing in sorted(things, key=_box_area, reverse=True):  # draw small things last so that they stay visible
        score = "" if thing.score is None else f" {thing.score:.0%}"
        label, colour = f"{names[thing.category]}{score}{' (crowd)' * thing.crowd}", tuple(colours[thing.category])
        if thing.box is None and thing.mask is not None:
            canvas.draw_binary_mask(_region(thing, image), colour, text=label, alpha=OPACITY, area_threshold=0)
        else:
            canvas.overlay_instances(
                boxes=None if thing.box is None else np.array([thing.box]),
                labels=[label],
                masks=None if thing.mask is None else [thing.mask],
                keypoints=None if thing.keypoints is None else thing.keypoints[None],
                assigned_colors=[colour],
                alpha=OPACITY,
            )
    return canvas.get_output().get_image()


def _box_area(thing: Thing) -> float:
    x0, y0, x1, y1 = (0, 0, 0, 0) if thing.box is None else thing.box
    return (x1 - x0) * (y1 - y0)


def _region(thing: Thing, image: np.ndarray) -> np.ndarray:
    """Return the mask (H x W, 0 or 1) of a thing without a box."""
    mask = mask_util.decode(thing.mask) if isinstance(thing.mask, dict) else thing.mask
    if mask.shape != image.shape[:2]:
        height, width = image.shape[:2]
        raise ValueError(
            f"a predicted region has {mask.shape[1]} x {mask.shape[0]} pixels, but its image has {width} x {height};"
            " check that the predictions belong to these images"
        )
    return mask.astype(np.uint8)


def _draw_title(title: str, width: int) -> np.ndarray:
    """Render a title in black on white, as large as fits, up to 11 points (TITLE_HEIGHT x width x 3)."""
    strip = VisImage(np.full((TITLE_HEIGHT, width, 3), 255, dtype=np.uint8))
    points = min(11.0, 72 / 0.8 * width / strip.dpi / len(title))  # few letters are wider than 0.8 times their size
    strip.ax.text(width / 2, TITLE_HEIGHT / 2, title, size=points, ha="center", va="center", parse_math=False)
    return strip.get_image()
