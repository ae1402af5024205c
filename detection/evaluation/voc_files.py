"""Reads and writes detections as text, one file per class, in the format of the VOC development kit.

Each line is ``image score xmin ymin xmax ymax``, with pixels counted from 1. As in detectron2, scores have three
decimals and coordinates have one. AP is computed from these rounded numbers, so the files give the same results as the
run.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

from .voc_ap import Detections

logger = logging.getLogger(__name__)


def file_name(class_name: str) -> str:
    """Return the file name for a class's detections. Class names such as ``T-shirt/top`` are escaped."""
    return quote(class_name, safe=" ") + ".txt"


def write_detections(folder: str | Path, images: Sequence[str], detections: Mapping[str, Detections]) -> None:
    """Write one file per class; ``images`` are the images of the split."""
    for class_name, found in detections.items():
        with atomic_open(Path(folder, file_name(class_name)), "w", encoding="utf-8") as handle:
            for image, score, box in zip(found.image, found.scores, found.boxes, strict=True):
                handle.write("{} {:.3f} {:.1f} {:.1f} {:.1f} {:.1f}\n".format(images[image], score, *box))


def read_detections(folder: str | Path, images: Sequence[str], class_names: Sequence[str]) -> dict[str, Detections]:
    """Read the files written by ``write_detections``, one per class, named ``<class>.txt``.

    Raises:
        FileNotFoundError: the folder or the file of a class does not exist.
        ValueError: a line is malformed, contains numbers that are not finite, or names an image that is not in the
            split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the folder {folder} does not exist; expected a folder of detections with one file <class>.txt for each"
            " class"
        )
    if missing := [file_name(name) for name in class_names if not (folder / file_name(name)).is_file()]:
        found = sorted(path.name for path in folder.glob("*.txt"))
        raise FileNotFoundError(
            f"{folder} lacks {first_few(missing)}; found {first_few(found)}. Each class requires a file of detections,"
            " which may be empty"
        )
    places = {image: place for place, image in enumerate(images)}
    detections = {name: _read_class(folder / file_name(name), places) for name in class_names}
    if empty := [name for name, found in detections.items() if not len(found)]:
        logger.warning(f"{folder} contains no detections of {first_few(empty)}")
    return detections


def _read_class(path: Path, places: Mapping[str, int]) -> Detections:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            image, *numbers = line.strip().rsplit(maxsplit=5)  # an image's name may contain spaces
            score, xmin, ymin, xmax, ymax = map(float, numbers)
        except ValueError:
            raise ValueError(f"{where}: expected  image score xmin ymin xmax ymax, found {line!r}") from None
        row = (score, xmin, ymin, xmax, ymax)
        if not all(map(math.isfinite, row)) or xmax - xmin < -1 or ymax - ymin < -1:
            raise ValueError(f"{where}: the score or the box is not finite, or the box has a negative size: {line!r}")
        if image not in places:
            raise ValueError(f"{where}: the image {image!r} is not in the split of {len(places)} images")
        rows.append((places[image], *row))
    return Detections.from_rows(np.array(rows, dtype=float).reshape(-1, 6))
