"""One label file of YOLO (docs.ultralytics.com/datasets): one line per object, in fractions of the image's sides."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .coco_objects import TOLERANCE, polygon_area
from .findings import Finding, Ledger
from .image import Size, by
from .lists import decode_text

BOX = 5  # words of a line: class, x and y of the centre, width, height
POLYGON = 7  # at least: class, three points


@dataclass(frozen=True)
class YoloObject:
    """An object in an image.

    Attributes:
        line: number of its line, from 1.
        index: index of its class.
        box: x and y of the upper left corner, width, height, in pixels.
        area: area of the polygon or, without one, of the box, in square pixels.
        polygon: x, y, x, y, ... in pixels; empty if there is only a box.
    """

    line: int
    index: int
    box: tuple[float, float, float, float]
    area: float
    polygon: tuple[float, ...] = ()


@dataclass(frozen=True)
class YoloLabels:
    """The content of a label file.

    Attributes:
        objects: the valid objects.
        count: number of lines that are not blank.
        findings: an error or a repair (of a repeated line) for each line that is not among ``objects``; notes.
    """

    objects: tuple[YoloObject, ...] = ()
    count: int = 0
    findings: tuple[Finding, ...] = ()


def read_label_file(path: Path, size: Size, num_classes: int) -> YoloLabels:
    """Read a label file.

    Args:
        path: the file.
        size: width and height of the image in pixels.
        num_classes: indices of classes must be below this number.

    Raises:
        OSError: it cannot be read.
    """
    ledger = Ledger(path)
    try:
        lines = decode_text(path.read_bytes()).splitlines()
    except UnicodeDecodeError as error:
        ledger.error("", f"is not text in UTF-8 ({error.reason})", "rewrite it, one object per line")
        return YoloLabels(findings=tuple(ledger.findings()))
    written = {number: tuple(line.split()) for number, line in enumerate(lines, start=1) if line.strip()}
    first = {words: number for number, words in reversed(written.items())}
    objects = []
    for number, words in written.items():
        if first[words] != number:
            ledger.count("repaired", f"line {number}", "says the same as another line", "taken once")
            continue
        found = _object(number, words, size, num_classes, ledger)
        if found is not None:
            objects.append(found)
    return YoloLabels(tuple(objects), len(written), tuple(ledger.findings()))


def _object(number: int, words: Sequence[str], size: Size, num_classes: int, ledger: Ledger) -> YoloObject | None:
    """Read an object of an image of ``size``; None, with an error, if it is not valid."""
    record = f"line {number}"
    try:
        values = [float(word) for word in words]
    except ValueError:
        ledger.error(record, f"is {' '.join(words)[:80]!r}, not numbers with blanks between them", "rewrite it")
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
        ledger.error(record, f"has {shape} without width or height, which covers nothing", "correct or remove it")
        return None
    left, top = box[:2]
    beyond = max(-left, -top, left + box[2] - width, top + box[3] - height)
    if beyond > TOLERANCE:
        ledger.count("note", record, "has a box that is not inside its image", "training clips it")
    return YoloObject(number, index, box, area, tuple(polygon))


def _form_fault(values: Sequence[float], num_classes: int) -> tuple[str, str] | None:
    """Say what is wrong with the number of values in a line, or with its class, and what to do."""
    if not all(map(math.isfinite, values)):
        return "has a number that is not finite", "correct it or remove the line"
    count = len(values)
    if count != BOX and (count < POLYGON or count % 2 == 0):
        remedy = "write class, x, y, width, height, or class and the points x, y of a polygon"
        if count == BOX + 1:
            remedy += "; leave out a confidence"
        return f"has {count} numbers", remedy
    if not values[0].is_integer() or not 0 <= values[0] < num_classes:
        return f"has the class {values[0]:g}, but there are {num_classes} names", "classes are counted from 0"
    return None


def _range_fault(values: Sequence[float], size: Size) -> tuple[str, str] | None:
    """Name a value that is not a fraction of the image's side, by more than a pixel; and say what to do."""
    for value, side in zip(values, size * (len(values) // 2), strict=True):
        if not -TOLERANCE / side <= value <= 1 + TOLERANCE / side:
            remedy = f"divide pixels by the image's width and height ({by(size)}), or remove the line"
            return f"has the number {value:g}; all but the class are parts of the image, 0 to 1", remedy
    return None
