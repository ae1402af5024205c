"""Checks and repairs of the annotations in a file in COCO format."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from reprlib import repr as brief
from typing import Any

from .coco_values import Id, Record, are_numbers, as_id, as_side, other_form, short
from .findings import Ledger, Severity
from .runs import measure_runs

# Conventions differ by a pixel (half-open or closed intervals, starting at 0 or 1). detectron2 clips boxes that extend
# beyond the image.
TOLERANCE = 1.0
LEAST = 6  # minimum number of coordinates in a polygon: three points
# Ids of COCO 2017 annotations whose boxes have zero height (cocodataset/cocoapi issue 355); detectron2 drops them.
KNOWN_EMPTY_BOXES = frozenset({918, 2_206_849})

CORRECT = "correct it or remove the annotation"
FORMS = "use polygons or run lengths, or remove the segmentation"
NO_PIXELS = ("has a mask without pixels inside its image", CORRECT)
CROWDS = {0: 0, 1: 1, "0": 0, "1": 1, None: 0}  # False, True, 0.0 and 1.0 are equal to 0 and 1
Fault = tuple[str, str] | None  # what was found, and what to do
UNKNOWN = (math.inf, math.inf)  # width and height of an image

FRACTION = 1.001  # largest x + width of a box in fractions of its image, with a margin for rounded numbers
NEAR = 2.0  # maximum distance in pixels between a box and the bounds of its polygons


class ObjectReader:
    """Reads the annotations in one file.

    Args:
        images: images by id.
        categories: categories by id.
        num_keypoints: number of keypoints of each object that has any; 0 if unknown.
        ledger: collects the findings.
    """

    def __init__(
        self, images: Mapping[Id, Record], categories: Mapping[Id, Record], num_keypoints: int, ledger: Ledger
    ):
        self.images, self.categories, self.num_keypoints, self.ledger = images, categories, num_keypoints, ledger
        self._compressed: list[tuple[int, Record]] = []  # positions and annotations of the masks to measure in batches

    def read(self, entries: Sequence[Any]) -> list[Record]:
        """Return the annotations without errors, after repairing them in place."""
        sound: list[Record | None] = []
        seen: set[Id] = set()
        # detectron2 allows repeated ids in the minival subsets of COCO 2014's val.
        may_repeat = "minival" in self.ledger.file.name
        errors = self.ledger.errors
        for place, entry in enumerate(entries):
            if type(entry) is not dict:
                self.ledger.error(f"annotation number {place} of the list", f"is {brief(entry)}", "remove the entry")
                sound.append(None)
                continue
            before = len(errors)
            self._look_at_id(entry, place, seen, may_repeat)
            self._look_at(entry, place)
            sound.append(entry if len(errors) == before else None)
        self._measure_compressed(sound)
        found = [entry for entry in sound if entry is not None]
        self._look_at_convention(found)
        self._note_masks(found)
        return found

    def _look_at_id(self, entry: Record, place: int, seen: set[Id], may_repeat: bool) -> None:
        """Check that the annotation's id is unique; if it has no id, assign one."""
        given = entry.get("id")
        identity = as_id(given)
        entry["id"] = f"number {place} of the list" if identity is None else identity
        if given is None:
            self._count("repaired", entry, "has no id", "identified by its position")
        elif identity is None:
            self.ledger.error(name_of(entry), f"has the id {brief(given)}", "set the id to an integer or a string")
        elif identity in seen and not may_repeat:
            entry["id"] = f"{short(identity)} (number {place} of the list)"
            remedy = "ids must be unique; renumber the files before merging them"
            self.ledger.error(name_of(entry), "has the id of another annotation", remedy)
        seen.add(entry["id"])

    def _look_at(self, entry: Record, place: int) -> None:
        """Check everything except the id, and record all errors."""
        image = self._linked(entry, "image_id", self.images)
        category = self._linked(entry, "category_id", self.categories)
        size = (image["width"], image["height"]) if image and "width" in image else UNKNOWN
        faults = [
            None if image else (f"refers to image {_value(entry, 'image_id')}, which is not in the file", CORRECT),
            None
            if category
            else (f"refers to category {_value(entry, 'category_id')}, which is not in the file", CORRECT),
            self._box_fault(entry, size),
            self._mask_fault(entry, size, place),
            self._crowd_fault(entry),
            self._keypoints_fault(entry, size),
            ("has ignore, which detectron2 does not support", "set iscrowd to 1 instead")
            if entry.get("ignore")
            else None,
        ]
        if not any(faults):
            faults.append(self._pixels_fault(entry, size))
        if entry.get("area") is not None:
            faults.append(_area_fault(entry["area"]))
        elif not any(faults):
            self._count("repaired", entry, "has no area", "computed from its mask or, without a mask, its box")
            entry["area"] = _area(entry)
        for fault in filter(None, faults):
            self.ledger.error(name_of(entry), *fault)

    def _count(self, severity: Severity, entry: Record, what: str, remedy: str) -> None:
        self.ledger.count(severity, name_of(entry), what, remedy)

    def _linked(self, entry: Record, key: str, records: Mapping[Id, Record]) -> Record | None:
        """Return the image or category that an annotation refers to, even if one id is text and the other a number."""
        given = entry.get(key)
        identity = given if type(given) is int or type(given) is str else as_id(given)
        if identity is None:
            return None
        record = records.get(identity)
        other = other_form(identity) if record is None else None
        if other is not None and (record := records.get(other)) is not None:
            self._count(
                "repaired", entry, f"has {key} as text instead of a number, or vice versa", "treated as the same id"
            )
        if record is not None:
            entry[key] = record["id"]
        return record

    def _box_fault(self, entry: Record, size: tuple[float, float]) -> Fault:
        bbox = entry.get("bbox")
        if not are_numbers(bbox) or len(bbox) != 4 or bool in map(type, bbox):
            return f"has the bbox {brief(bbox)}; it must be four numbers: x, y, width, height", CORRECT
        x, y, width, height = bbox
        if width < 0 or height < 0:
            return f"has the bbox {brief(bbox)}, whose width or height is negative", CORRECT
        if width == 0 or height == 0:
            if entry["id"] not in KNOWN_EMPTY_BOXES or height:
                return f"has the bbox {brief(bbox)}, which is empty", CORRECT
            self._count("note", entry, "has an empty box, as published", "detectron2 drops the box")
        if x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
            return f"has the bbox {brief(bbox)} outside its image, which is {size[0]} x {size[1]}", CORRECT
        if x < -TOLERANCE or y < -TOLERANCE or x + width > size[0] + TOLERANCE or y + height > size[1] + TOLERANCE:
            self._count("note", entry, "has a box that extends beyond its image", "training clips the box")
        return None

    def _mask_fault(self, entry: Record, size: tuple[float, float], place: int) -> Fault:
        mask = entry.get("segmentation")
        if not mask:
            entry.pop("segmentation", None)
            return None
        if type(mask) is list and type(mask[0]) is dict:
            if "counts" not in mask[0]:
                return _no_runs_fault(mask)
            if len(mask) > 1:
                return f"has {len(mask)} run-length masks", "merge them, or create an annotation for each mask"
            self._count("repaired", entry, "has run lengths in a list", "extracted from the list")
            mask = entry["segmentation"] = mask[0]
        if type(mask) is dict:
            return self._runs_fault(entry, mask, size, place)
        if type(mask) is not list:
            return f"has the segmentation {brief(mask)}", FORMS
        if type(mask[0]) in (int, float):
            self._count("repaired", entry, "has a polygon that is not in a list of polygons", "put into a list")
            mask = entry["segmentation"] = [mask]
        return self._polygons_fault(entry, mask, size)

    def _polygons_fault(self, entry: Record, mask: list, size: tuple[float, float]) -> Fault:
        """Check polygons ``[[x, y, x, y, ...], ...]``, and remove those that are too short to cover an area."""
        if not all(type(polygon) is list and len(polygon) >= LEAST and are_numbers(polygon) for polygon in mask):
            mask = self._rewritten(entry, mask)
            if not mask:
                del entry["segmentation"]
                return None
            if not all(are_numbers(polygon) for polygon in mask):
                return "has a polygon that is not a list of numbers x, y, x, y, ...", CORRECT
            long = [polygon for polygon in mask if len(polygon) >= LEAST]
            if not long:
                return f"has a polygon of {len(mask[0]) // 2} points; at least three are required", CORRECT
            if len(long) < len(mask):
                self._count(
                    "repaired",
                    entry,
                    "has a polygon with fewer than three points",
                    "removed, because it covers no area",
                )
            mask = entry["segmentation"] = long
        if any(len(polygon) % 2 for polygon in mask):
            return "has a polygon with an odd number of coordinates x, y, x, y, ...", CORRECT
        if any(
            min(polygon) < -TOLERANCE
            or max(polygon[0::2]) > size[0] + TOLERANCE
            or max(polygon[1::2]) > size[1] + TOLERANCE
            for polygon in mask
        ):
            self._count("note", entry, "has a mask that extends beyond its image", "training clips the mask")
        return None

    def _rewritten(self, entry: Record, mask: list) -> list:
        """Convert polygons of points ``[x, y]`` to polygons of numbers, and remove empty polygons."""
        if len(mask) >= LEAST // 2 and all(map(_is_point, mask)):
            mask = [mask]
        found = [
            [*chain.from_iterable(polygon)] if type(polygon) is list and all(map(_is_point, polygon)) else polygon
            for polygon in mask
            if polygon != []
        ]
        if found != entry["segmentation"]:
            self._count("repaired", entry, "has polygons of points or empty polygons", "converted to x, y, x, y, ...")
        return found

    def _runs_fault(self, entry: Record, mask: Record, size: tuple[float, float], place: int) -> Fault:
        """Check run lengths; compressed run lengths are measured later."""
        sides = mask.get("size")
        found = [as_side(side) or 0 for side in sides] if type(sides) is list else []
        if len(found) != 2 or 0 in found:
            return f"has an RLE of size {brief(sides)}; it must be [height, width]", CORRECT
        height, width = found
        if size != UNKNOWN and size != (width, height):
            return f"has an RLE of {width} x {height} pixels, but its image is {size[0]} x {size[1]}", CORRECT
        mask["size"], counts = found, mask.get("counts")
        if type(counts) is str and counts:
            self._compressed.append((place, entry))
            return None
        if not are_numbers(counts) or any(type(run) is not int or run < 0 for run in counts):
            return "has an RLE without valid counts", CORRECT
        if sum(counts) != width * height:
            return f"has an RLE whose counts add up to {sum(counts)} pixels instead of {height} x {width}", CORRECT
        return None

    def _pixels_fault(self, entry: Record, size: tuple[float, float]) -> Fault:
        """Check that a mask has pixels in its image; compressed run lengths are measured later."""
        mask = entry.get("segmentation")
        if mask is None or entry["iscrowd"]:
            return None
        if type(mask) is dict:
            counts = mask["counts"]
            return NO_PIXELS if type(counts) is list and not any(counts[1::2]) else None
        if _is_outside(mask, size):
            return NO_PIXELS
        if all(map(_is_flat, mask)):  # not an error, because published data sets contain such masks
            self._count("note", entry, "has a mask whose points lie on a line", "mask training ignores the object")
        return None

    def _measure_compressed(self, sound: list[Record | None]) -> None:
        """Record an error for compressed run lengths that do not fill their image, and set missing areas."""
        texts = [entry["segmentation"]["counts"] for _, entry in self._compressed]
        for (place, entry), (pixels, inside) in zip(self._compressed, measure_runs(texts), strict=True):
            height, width = entry["segmentation"]["size"]
            if pixels != height * width:
                found = "cannot be read" if pixels < 0 else f"add up to {pixels} pixels instead of {height} x {width}"
                self.ledger.error(name_of(entry), f"has an RLE whose counts {found}", CORRECT)
                sound[place] = None
            elif not inside and not entry["iscrowd"]:
                self.ledger.error(name_of(entry), *NO_PIXELS)
                sound[place] = None
            elif entry.get("area") is None:
                entry["area"] = float(inside)

    def _crowd_fault(self, entry: Record) -> Fault:
        given = entry.get("iscrowd", 0)
        if type(given) is int and 0 <= given <= 1:
            entry["iscrowd"] = given
            return None
        try:
            entry["iscrowd"] = CROWDS[given]
        except (KeyError, TypeError):
            return f"has iscrowd {brief(given)}; it must be 0 or 1", CORRECT
        self._count("repaired", entry, f"has iscrowd {given!r}", f"read as {entry['iscrowd']}")
        return None

    def _keypoints_fault(self, entry: Record, size: tuple[float, float]) -> Fault:
        values = entry.get("keypoints")
        if not values:
            entry.pop("keypoints", None)
            entry.pop("num_keypoints", None)
            return None
        wanted = 3 * self.num_keypoints
        if not are_numbers(values) or len(values) % 3 or len(values) != (wanted or len(values)):
            found = f"{len(values)} numbers" if are_numbers(values) else brief(values)
            each = f"the {self.num_keypoints} keypoints" if self.num_keypoints else "the keypoints"
            return f"has {found} as keypoints; expected x, y and visibility for each of {each}", CORRECT
        visible = values[2::3]
        if not set(visible) <= {0, 1, 2}:
            return "has a keypoint whose visibility is not 0, 1 or 2", CORRECT
        labelled = sum(value > 0 for value in visible)
        given = entry.setdefault("num_keypoints", labelled)
        if type(given) is not int or given < 0:
            entry["num_keypoints"] = labelled
            self._count("repaired", entry, f"has num_keypoints {brief(given)}", "replaced with the actual number")
        elif given != labelled:
            what = "has a num_keypoints that differs from its number of keypoints with visibility above 0"
            self._count("note", entry, what, "COCO's metrics ignore objects for which num_keypoints is 0")
        points = [(x, y) for x, y, seen in zip(values[0::3], values[1::3], visible, strict=True) if seen]
        if any(
            not -TOLERANCE <= place <= side + TOLERANCE for xy in points for place, side in zip(xy, size, strict=True)
        ):
            self._count("note", entry, "has a keypoint outside its image", "training treats the keypoint as unlabelled")
        return None

    def _look_at_convention(self, annotations: Sequence[Record]) -> None:
        """Record an error if the boxes in the file as a whole follow another convention than x, y, width, height."""
        objects = [entry for entry in annotations if not entry["iscrowd"]]
        if objects and all(self._may_be_fractions(entry) for entry in objects):
            what = "has boxes that seem to be fractions of the image's size"
            self.ledger.error("", what, "multiply x and width by the image's width, and y and height by its height")
        elif _are_corners([entry for entry in objects if type(entry.get("segmentation")) is list]):
            what = "has boxes that seem to be x1, y1, x2, y2"
            self.ledger.error("", what, "write x, y, width, height")

    def _may_be_fractions(self, entry: Record) -> bool:
        """Return whether a box lies within the first pixel of an image that has more than one."""
        x, y, width, height = entry["bbox"]
        if x + width > FRACTION or y + height > FRACTION:
            return False
        image = self.images[entry["image_id"]]
        return (image.get("width"), image.get("height")) != (1, 1)

    def _note_masks(self, annotations: Sequence[Record]) -> None:
        """Note masks that are missing or in a format that prevents mask training."""
        bare = [entry for entry in annotations if "segmentation" not in entry]
        for entry in bare if len(bare) < len(annotations) else ():
            self._count("note", entry, "has no mask, although others have one", "usable only with MODEL.MASK_ON False")
        for entry in annotations:
            if type(entry.get("segmentation")) is dict and not entry["iscrowd"]:
                self._count("note", entry, "has a run-length mask", "usable only with INPUT.MASK_FORMAT bitmask")


def name_of(entry: Record) -> str:
    """Return an annotation's name for messages."""
    return f"annotation {short(entry['id'])} (image {_value(entry, 'image_id')})"


def _value(entry: Record, key: str) -> str:
    return short(entry.get(key))


def _is_point(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and are_numbers(value)


def _no_runs_fault(mask: Sequence[Any]) -> Fault:
    """Return the error of a list whose first item is an object without run lengths, such as a point."""
    if not {"x", "y"} <= mask[0].keys():
        return f"has the segmentation {brief(mask)}", FORMS
    what = f"has a list of points {brief(mask[0])} as its segmentation"
    return what, "write each polygon as a list of numbers: [[x1, y1, x2, y2, x3, y3, ...]]"


def _is_flat(polygon: Sequence[float]) -> bool:
    """Return whether all points of a polygon lie on a line.

    The area of `polygon_area` would not do: it is also 0 for a figure of eight, which covers pixels.
    """
    left, top, x0, y0, x1, y1 = polygon[:LEAST]
    if (x0 - left) * (y1 - top) != (x1 - left) * (y0 - top):  # as in almost all polygons
        return False
    sides = zip(polygon[2::2], polygon[3::2], polygon[4::2], polygon[5::2], strict=False)
    return all((x0 - left) * (y1 - top) == (x1 - left) * (y0 - top) for x0, y0, x1, y1 in sides)


def _is_outside(mask: Sequence[Sequence[float]], size: tuple[float, float]) -> bool:
    """Return whether all polygons lie completely outside an image of the given width and height."""
    if 0 < mask[0][0] < size[0] and 0 < mask[0][1] < size[1]:  # as in almost all masks
        return False
    return all(
        max(polygon[0::2]) <= 0
        or max(polygon[1::2]) <= 0
        or min(polygon[0::2]) >= size[0]
        or min(polygon[1::2]) >= size[1]
        for polygon in mask
    )


def _are_corners(annotations: Sequence[Record]) -> bool:
    """Return whether boxes seem to be x1, y1, x2, y2, judging by the polygons that all annotations have."""
    # Most boxes x, y, width, height are ruled out by themselves. Near the origin, the two conventions agree.
    possible = [
        entry
        for entry in annotations
        for left, top, right, bottom in (entry["bbox"],)
        if left < right and top < bottom and (left > NEAR or top > NEAR)
    ]
    least = max(2, len(annotations) / 2)
    return len(possible) >= least and sum(map(_has_corners, possible)) >= least


def _has_corners(entry: Record) -> bool:
    """Return whether a box matches the bounds of its polygons as x1, y1, x2, y2, but not as x, y, width, height."""
    left, top, right, bottom = entry["bbox"]
    xs = [*chain.from_iterable(polygon[0::2] for polygon in entry["segmentation"])]
    ys = [*chain.from_iterable(polygon[1::2] for polygon in entry["segmentation"])]
    bounds = min(xs), min(ys), max(xs), max(ys)
    return _is_near((left, top, right, bottom), bounds) and not _is_near(
        (left, top, left + right, top + bottom), bounds
    )


def _is_near(box: Sequence[float], bounds: Sequence[float]) -> bool:
    return all(abs(value - bound) <= NEAR for value, bound in zip(box, bounds, strict=True))


def _area_fault(area: Any) -> Fault:
    if are_numbers([area]) and area >= 0:
        return None
    return f"has the area {brief(area)}; it must be a number of square pixels", "correct or remove the area"


def _area(entry: Record) -> float | None:
    """Return the area of the mask or, without a mask, of the box; None if the mask has yet to be measured."""
    mask = entry.get("segmentation")
    if type(mask) is list:
        return float(sum(map(polygon_area, mask)))
    if type(mask) is dict:
        counts = mask.get("counts")
        return float(sum(counts[1::2])) if type(counts) is list else None
    return float(entry["bbox"][2] * entry["bbox"][3])


def polygon_area(polygon: Sequence[float]) -> float:
    """Return the area of a polygon x, y, x, y, ..., computed with the shoelace formula."""
    points = [*zip(polygon[0::2], polygon[1::2], strict=True)]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*points, points[0]]))) / 2
