"""Images and their boxes in any kind of data set, for code that needs nothing else."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .coco import Coco, choose_classes, choose_images, read_coco
from .findings import Finding, log_repairs, refuse_errors
from .hold_out import HoldOut, read_hold_out
from .voc_folder import VocFolder, missing_image, read_split
from .yolo_folder import folder_of, read_yolo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Box:
    """An object: its class, and its left, top, right and bottom edges in pixels from the image's upper-left corner."""

    name: str
    edges: tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxedImage:
    """An image, whose file may be missing, and its objects without crowds."""

    path: Path
    boxes: tuple[Box, ...] = ()


Found = tuple[list[BoxedImage], Sequence[Finding]]


def read_boxes(entry: object, key: str) -> list[BoxedImage]:
    """Read the data set described by an entry like those in ``MOCO.DATASETS``; ``NAME`` is not required.

    Args:
        entry: a mapping with ``KIND`` and the keys of that kind (`KINDS`).
        key: name of the entry in messages.

    Raises:
        FileNotFoundError: files of the data set are missing.
        ValueError: the entry is malformed, or the files contain errors.
    """
    kind = entry.get("KIND") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{key} is {entry!r}; expected an entry as in MOCO.DATASETS, with KIND {' or '.join(KINDS)}, for example"
            " {'KIND': 'coco', 'JSON': 'labels.json', 'IMAGES': 'photos'}"
        )
    needed, optional, read = KINDS[kind]
    given = {name: value for name, value in entry.items() if name not in WITHOUT_MEANING}
    if not set(needed) <= set(given) <= {*needed, *optional}:
        known = ", ".join((*needed, *(f"{name} (optional)" for name in optional)))
        raise ValueError(f"{key} of KIND {kind} has {', '.join(given) or 'no other keys'}; expected {known}")
    for name, value in given.items():
        types, expected = TYPES.get(name, ((str,), "text"))
        if not isinstance(value, types):
            raise ValueError(f"{key}: {name} is {value!r}; expected {expected}")
    images, findings = read(given)
    refuse_errors(key, findings)
    log_repairs(key, findings, logger)
    return images


def _read_voc(entry: Mapping[str, Any]) -> Found:
    folder = VocFolder(Path(entry["ROOT"]).expanduser())
    if folder.absent:
        raise FileNotFoundError(
            f"folder {folder.absent[0]} does not exist; ROOT must contain Annotations and JPEGImages"
        )
    found = read_split(folder, entry["SPLIT"], entry.get("CLASSES"), _hold_out(entry))
    lost = [missing_image(folder, image, found.listed) for image in found.images]
    images = []
    for image in found.images:
        objects = [(one.name, one.box) for one in image.annotation.objects]
        # VOC counts pixels from 1 and includes the last pixel.
        boxes = tuple(Box(name, (x - 1, y - 1, right, bottom)) for name, (x, y, right, bottom) in objects)
        if image.image is not None:
            images.append(BoxedImage(image.image, boxes))
    return images, [*found.findings, *filter(None, lost)]


def _read_coco(entry: Mapping[str, Any]) -> Found:
    folder = Path(entry["IMAGES"]).expanduser()
    coco = choose_classes(read_coco(Path(entry["JSON"]).expanduser(), folder), entry.get("CLASSES", ()))
    return _of_coco(choose_images(coco, entry.get("SPLIT", ""), _hold_out(entry)), folder)


def _read_yolo(entry: Mapping[str, Any]) -> Found:
    path, split, classes = Path(entry["ROOT"]).expanduser(), entry.get("SPLIT", ""), entry.get("CLASSES", ())
    coco = read_yolo(path, split, classes, _hold_out(entry))
    return _of_coco(coco, folder_of(coco.path))


def _hold_out(entry: Mapping[str, Any]) -> HoldOut | None:
    return read_hold_out(entry.get("SPLIT", ""), entry.get("HOLD_OUT", 0), entry.get("HOLD_OUT_SEED", 0))


def _of_coco(coco: Coco, folder: Path) -> Found:
    names = {category["id"]: category["name"] for category in coco.categories}
    boxes: dict[Any, list[Box]] = {image["id"]: [] for image in coco.images}
    for one in coco.annotations:
        if not one["iscrowd"]:
            left, top, width, height = one["bbox"]
            boxes[one["image_id"]].append(Box(names[one["category_id"]], (left, top, left + width, top + height)))
    images = [BoxedImage(folder / image["file_name"], tuple(boxes[image["id"]])) for image in coco.images]
    return images, coco.findings


WITHOUT_MEANING = ("KIND", "NAME", "YEAR")  # keys of an entry that do not affect its boxes
TYPES = {
    "CLASSES": ((list, tuple), "a list of names"),
    "HOLD_OUT": ((int, float), "a number"),
    "HOLD_OUT_SEED": ((int,), "an integer"),
}

# KIND: required keys, optional keys, reader.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Mapping[str, Any]], Found]]] = {
    "voc": (("ROOT", "SPLIT"), ("CLASSES", "HOLD_OUT", "HOLD_OUT_SEED"), _read_voc),
    "coco": (("JSON", "IMAGES"), ("CLASSES", "SPLIT", "HOLD_OUT", "HOLD_OUT_SEED"), _read_coco),
    "yolo": (("ROOT",), ("SPLIT", "CLASSES", "HOLD_OUT", "HOLD_OUT_SEED"), _read_yolo),
}
