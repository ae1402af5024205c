"""Reader for the JSON files of the iNaturalist challenges, which have COCO's layout with one category per image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from mocodet.common.files import read_json
from mocodet.common.text import first_few, repeated


@dataclass(frozen=True)
class Classified:
    """A list of images and their classes.

    Attributes:
        files: image file names, relative to a folder, in the order of the list.
        labels: class index of each image, in [0, C).
        classes: names of the C classes.
    """

    files: list[str]
    labels: list[int]
    classes: list[str]


def read_classified(path: Path) -> Classified:
    """Read ``train2018.json``, ``val2018.json`` or another file in this layout.

    The file contains ``"images"`` (``id``, ``file_name``), ``"annotations"`` (``image_id``, ``category_id``), one per
    image, and ``"categories"`` (``id``, ``name``), which lists all classes, including those without images in this
    split.

    Args:
        path: the JSON file.

    Returns:
        the images. Their classes are the category names in the order of the ids, which need not be contiguous. If names
        are missing or repeated, the ids are used instead.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not have this layout or lists no images; an image has no annotation or more than one;
            an annotation refers to an unknown image or category; or an id is repeated. The message names the first few.
    """
    content = _read(path)
    categories = _by_id(content["categories"], f"{path}: category")
    files = {image: entry["file_name"] for image, entry in _by_id(content["images"], f"{path}: image").items()}
    if not files:
        raise ValueError(f"{path} lists no images")
    category_of = _one_for_each(content["annotations"], files, categories, str(path))
    ids = sorted(categories, key=lambda category: (isinstance(category, str), category))
    place = {category: number for number, category in enumerate(ids)}
    names = [str(categories[category].get("name", "")) for category in ids]
    named = all(names) and len(set(names)) == len(names)
    return Classified(
        list(files.values()),
        [place[category_of[image]] for image in files],
        names if named else [str(category) for category in ids],
    )


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the JSON file, and check that it contains the three lists."""
    content = read_json(path)
    wanted = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id",)}
    for name, keys in wanted.items():
        entries = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} has no list {name!r}; expected the iNaturalist layout with {', '.join(wanted)}")
        for number, entry in enumerate(entries):
            if not isinstance(entry, Mapping) or any(key not in entry for key in keys):
                raise ValueError(
                    f"{path}: entry {number} of {name!r} must have {', '.join(keys)}; found {brief(entry)}"
                )
            if wrong := [key for key in keys if not _fits(key, entry[key])]:
                found = f"{wrong[0]} {brief(entry[wrong[0]])}"
                kind = "a file name" if wrong[0] == "file_name" else "an integer or a string"
                raise ValueError(f"{path}: entry {number} of {name!r} has {found}; expected {kind}")
    return content


def _fits(key: str, value: Any) -> bool:
    """Return whether a value is a valid file name or id."""
    if isinstance(value, str):
        return bool(value) and value.isprintable()  # a file name contains no null byte and no unpaired surrogate
    return key != "file_name" and type(value) is int


def _by_id(entries: list[dict[str, Any]], what: str) -> dict[Any, dict[str, Any]]:
    if again := repeated(entry["id"] for entry in entries):
        raise ValueError(f"{what} ids must be unique; repeated: {first_few(list(map(str, again)))}")
    return {entry["id"]: entry for entry in entries}


def _one_for_each(
    annotations: list[dict[str, Any]], files: Mapping[Any, str], categories: Mapping[Any, object], where: str
) -> dict[Any, Any]:
    """Map each image id to the id of the image's only category."""
    category_of = {entry["image_id"]: entry["category_id"] for entry in annotations}
    used = set(category_of.values())
    faults: dict[str, list[Any]] = {
        "images have more than one annotation": repeated(entry["image_id"] for entry in annotations),
        "images have no annotation": [image for image in files if image not in category_of],
        "annotated images are not in 'images'": [image for image in category_of if image not in files],
        "annotations have a category that is not in 'categories'": [
            category for category in used if category not in categories
        ],
    }
    for fault, ids in faults.items():
        if ids:
            few = first_few(list(map(str, ids)))
            raise ValueError(f"{where}: {len(ids)} {fault} (ids: {few}); expected one annotation per image")
    return category_of
