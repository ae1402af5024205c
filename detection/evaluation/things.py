"""Things to draw: the ground truth of an image and the predictions of a run, both in one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Thing:
    """An object or, in semantic segmentation, all pixels of a class."""

    category: int  # index into the names of the classes
    box: Sequence[float] | None = None  # x0 y0 x1 y1 in pixels
    score: float | None = None  # None for ground truth
    mask: Any = None  # polygons, H x W of 0 and 1, or run-length encoded as in COCO
    keypoints: np.ndarray | None = None  # K x 3: x, y, visibility or score
    crowd: bool = False


def image_key(record: Mapping[str, Any]) -> str:
    """Return the name of a record's image: its ``image_id``, or without one its file name without suffix."""
    return str(record.get("image_id", Path(record["file_name"]).stem))
