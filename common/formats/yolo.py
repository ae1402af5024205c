"""Reader for a YOLO label file (docs.ultralytics.com/datasets): one object per line, in fractions of the image size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .coco_objects import TOLERANCE, polygon_area
from .findings import Finding, Ledger
from .image import Size, by
from .lists import decode_text

BOX = 5  # values per line: class, x and y of the centre, width, height
POLYGON = 7  # minimum number of values: class and three points


@dataclass(frozen=True)
class YoloObject:
    """An object in an image.

    Attributes:
        line: line number, counting from 1.
        index: class index.
        box: x and y of the upper-left corner, width and height, in pixels.
        area: area of the polygon or, without a polygon, of the box, in square pixels.
        polygon: x, y, x, y, ... in pixels; empty if the object has only a box.
    """

    line: int
    index: int
    box: tuple[float, float, float, float]
    area: float
    polygon: tuple[float, ...] = ()


@dataclass(frozen=True)
class YoloLabels:
    """The contents of a label file.

    Attributes:
        objects: valid objects.
        count: number of non-blank lines.
        findings: notes, and an error or a repair (for a duplicate line) for each line that is not among ``objects``.
    """

    objects: tuple[YoloObject, ...] = ()
    count: int = 0
    findings: tuple[Finding, ...] = ()


def read_label_file(path: Path, size: Size, num_classes: int) -> YoloLabels:
    """Read a label file.

    Args:
        path: the label file.
        size: width and height of the image in pixels.
        num_classes: number of classes; every class index must be below it.

    Raises:
        OSError: the file cannot be read.
    """
    ledger = Ledger(path)
    try:
        lines = decode_text(path.read_bytes()).splitlines()
    except UnicodeDecodeError as error:
        ledger.error("", f"is not UTF-8 text ({error.reason})", "save it as UTF-8 with one object per line")
        return YoloLabels(findings=tuple(ledger.findings()))
    written = {number: tuple(line.split()) for number, line in enumerate(lines, start=1) if line.strip()}
    first = {words: number for number, words in reversed(written.items())}
    objects = []
    for number, words in written.items():
        if first[words] != number:
            ledger.count("repaired", f"line {number}", "duplicates another line", "used only once")
            continue
        found = _object(number, words, size, num_classes, ledger)
        if found is not None:
            objects.append(found)
    return YoloLabels(tuple(objects), len(written), tuple(ledger.findings()))


def _object(number: int, words: Sequence[str], size: Size, num_classes: int, ledger: Ledger) -> YoloObject | None:
    """Parse an object in an image of ``size``; if it is invalid, record an error and return None."""
    record = f"line {number}"
    try:
        values = [float(word) for word in words]
    except ValueError:
        ledger.error(record, f"is {' '.join(words)[:80]!r}; expected numbers separated by spaces", "correct it")
        return None
    if fault := _form_fault(values, num_classes) or _range_fault(values[1:], size):
        ledger.error(record, *fault)
        return None
    index, width, height = int(values[0]), *size
    if len(values) > BOX:
        polygon = [value * side for value, side in zip(values[1:], size * (len(values) // 2), strict=True)]
        xs, ys = polygon[0::2], polygon[1::2]
        box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
        area = polygon_area(polygon)
    else:
        x, y, w, h = values[1:]
        polygon, area = [], w * width * h * height
        box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
    if not (box[2] > 0 and box[3] > 0):
        shape = "a polygon" if polygon else "a box"
        ledger.error(record, f"has {shape} without a positive width and height", "correct or remove the object")
        return None
    left, top = box[:2]
    beyond = max(-left, -top, left + box[2] - width, top + box[3] - height)
    if beyond > TOLERANCE:
        ledger.count("note", record, "has a box that extends beyond its image", "training clips the box")
    return YoloObject(number, index, box, area, tuple(polygon))


def _form_fault(values: Sequence[float], num_classes: int) -> tuple[str, str] | None:
    """Return an error, and what to do, if a line has the wrong number of values or an invalid class."""
    if not all(map(math.isfinite, values)):
        return "contains a value that is not finite", "correct the value or remove the line"
    count = len(values)
    if count != BOX and (count < POLYGON or count % 2 == 0):
        remedy = "write class, x, y, width and height, or a class and the x, y of each polygon point"
        if count == BOX + 1:
            remedy += ", without a confidence"
        return f"has {count} values", remedy
    if not values[0].is_integer() or not 0 <= values[0] < num_classes:
        return (
            f"has the class {values[0]:g}, but there are {num_classes} class names",
            f"use an index from 0 to {num_classes - 1}",
        )
    return None


def _range_fault(values: Sequence[float], size: Size) -> tuple[str, str] | None:
    """Return an error, and what to do, if a value extends beyond the image by more than a pixel."""
    for value, side in zip(values, size * (len(values) // 2), strict=True):
        if not -TOLERANCE / side <= value <= 1 + TOLERANCE / side:
            remedy = f"divide pixel coordinates by the image's width and height ({by(size)}), or remove the line"
            return f"has the value {value:g}, but all values except the class must be fractions from 0 to 1", remedy
    return None
