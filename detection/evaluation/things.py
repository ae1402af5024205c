"""The common representation in which ground truth and predictions are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Thing:
    """An object or, in semantic segmentation, all pixels of a class."""

    category: int  # index into the class names
    box: Sequence[float] | None = None  # x0, y0, x1, y1 in pixels
    score: float | None = None  # None for ground truth
    mask: Any = None  # polygons, an array (H x W) of 0 and 1, or COCO run-length encoding
    keypoints: np.ndarray | None = None  # K x 3: x, y, and visibility or score
    crowd: bool = False


def image_key(record: Mapping[str, Any]) -> str:
    """Return the key of a record's image: its ``image_id`` or, without one, its file name without the extension."""
    return str(record.get("image_id", Path(record["file_name"]).stem))
