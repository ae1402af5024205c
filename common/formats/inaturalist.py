"""The JSON of iNaturalist's challenges: the layout of COCO, with one category for each image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from mocodet.common.files import read_json
from mocodet.common.text import first_few, repeated


@dataclass(frozen=True)
class Classified:
    """A list of images with their classes.

    Attributes:
        files: names of the images, relative to a folder, in the order of the list.
        labels: class of each image, in [0, C).
        classes: names of the C classes.
    """

    files: list[str]
    labels: list[int]
    classes: list[str]


def read_classified(path: Path) -> Classified:
    """Read ``train2018.json``, ``val2018.json`` or another file of this layout.

    It holds ``"images"`` (``id``, ``file_name``), ``"annotations"`` (``image_id``, ``category_id``), one for each
    image, and ``"categories"`` (``id``, ``name``), all classes, also those that no image of this split has.

    Args:
        path: the JSON file.

    Returns:
        the images. Their classes are the names of the categories, in the order of the ids, which need not be
        contiguous. If names are missing or repeated, the ids take their place.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not have this layout, or lists no image; an image without an annotation or with several;
            an annotation of an unknown image or category; a repeated id. The message names the first few.
    """
    content = _read(path)
    categories = _by_id(content["categories"], f"{path}: category")
    files = {image: entry["file_name"] for image, entry in _by_id(content["images"], f"{path}: image").items()}
    if not files:
        raise ValueError(f"{path} lists no image")
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
    """Read the JSON file, and check that it has its three lists."""
    content = read_json(path)
    wanted = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id",)}
    for name, keys in wanted.items():
        entries = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} has no list {name!r}; expected iNaturalist's layout: {', '.join(wanted)}")
        for number, entry in enumerate(entries):
            if not isinstance(entry, Mapping) or any(key not in entry for key in keys):
                raise ValueError(f"{path}: entry {number} of {name!r} has not all of {', '.join(keys)}: {brief(entry)}")
            if wrong := [key for key in keys if not _fits(key, entry[key])]:
                found = f"{wrong[0]} {brief(entry[wrong[0]])}"
                kind = "the name of a file" if wrong[0] == "file_name" else "a whole number or a word"
                raise ValueError(f"{path}: entry {number} of {name!r} has {found}; expected {kind}")
    return content


def _fits(key: str, value: Any) -> bool:
    """Tell whether a value can be a file's name, or an id."""
    if isinstance(value, str):
        return bool(value) and value.isprintable()  # a file's name has no zero byte and no unpaired surrogate
    return key != "file_name" and type(value) is int


def _by_id(entries: list[dict[str, Any]], what: str) -> dict[Any, dict[str, Any]]:
    if again := repeated(entry["id"] for entry in entries):
        raise ValueError(f"{what} ids must differ; repeated: {first_few(list(map(str, again)))}")
    return {entry["id"]: entry for entry in entries}


def _one_for_each(
    annotations: list[dict[str, Any]], files: Mapping[Any, str], categories: Mapping[Any, object], where: str
) -> dict[Any, Any]:
    """Map each image's id to the id of its only category."""
    category_of = {entry["image_id"]: entry["category_id"] for entry in annotations}
    used = set(category_of.values())
    faults: dict[str, list[Any]] = {
        "images have several annotations": repeated(entry["image_id"] for entry in annotations),
        "images have no annotation": [image for image in files if image not in category_of],
        "annotated images are not in 'images'": [image for image in category_of if image not in files],
        "annotations have a category that is not in 'categories'": [
            category for category in used if category not in categories
        ],
    }
    for fault, ids in faults.items():
        if ids:
            few = first_few(list(map(str, ids)))
            raise ValueError(f"{where}: {len(ids)} {fault}: id {few}; expected one annotation for each image")
    return category_of
