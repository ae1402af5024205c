"""Reader for COCO's JSON format (cocodataset.org/#format-data): boxes, masks and keypoints.

The reader adds what other tools leave out (image sizes, ``iscrowd``, ``area``, ``num_keypoints``, annotation ids), and
rewrites deviations from COCO that have only one possible meaning.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from mocodet.common.text import did_you_mean, first_few, repeated

from .coco_objects import ObjectReader
from .coco_values import Id, Record, as_id, as_side, order, short, uncollected
from .findings import Finding, Ledger
from .hold_out import HoldOut
from .image import image_size
from .not_coco import found_instead

LISTS = ("images", "annotations", "categories")
# First bytes of .json files that do not contain JSON -> what they contain, and what to do.
BEGINNINGS = {
    b"version https://git-lfs": ("is a Git LFS pointer, not the file itself", "run git lfs pull"),
    b"<": ("is an HTML or XML document", "export or download it again as JSON"),
    b"PK": ("is a zip archive", "unpack it"),
    b"\x1f\x8b": ("is compressed with gzip", "decompress it"),
}
LEFT, RIGHT = "left_", "right_"
KEYPOINTS = "to use MODEL.KEYPOINT_ON"


@dataclass(frozen=True)
class Coco:
    """The valid contents of a file in COCO format, after repairs.

    Attributes:
        path: the file.
        images: images in ascending order of their ids. ``id`` is the id in the file, an integer or text; ``width`` and
            ``height`` are positive integers, or both are absent.
        categories: categories in class order: in ascending order of their ids, or as chosen. ``name`` is text.
        annotations: annotations in the order of the file. Each has ``id``, ``image_id``, ``category_id``, ``bbox`` (x,
            y, width, height in pixels), ``iscrowd`` (0 or 1) and ``area`` (square pixels). Annotations with a mask also
            have ``segmentation`` (polygons or run lengths), and annotations with keypoints also have ``keypoints`` and
            ``num_keypoints``.
        keypoint_names: names of the keypoints; empty if no annotation has keypoints or if a note explains why they
            cannot be used for training.
        findings: at least one error for each annotation in the file that is not among ``annotations``; also repairs and
            notes.
        left_out: categories that were not chosen.
        refused: number of annotations in the file that are not among ``annotations``.
        is_annotated: whether the file has a list of annotations; files for COCO's test images have none.
    """

    path: Path
    images: list[Record] = field(default_factory=list)
    categories: list[Record] = field(default_factory=list)
    annotations: list[Record] = field(default_factory=list)
    keypoint_names: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    left_out: list[Record] = field(default_factory=list)
    refused: int = 0
    is_annotated: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """Category names, in the order of the model's class indices."""
        return tuple(category["name"] for category in self.categories)

    def content(self) -> dict[str, list[Record]]:
        """Return the records in the structure of a COCO file."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}

    def numbered(self) -> dict[str, list[Record]]:
        """Return copies of the records with integer ids, as required by pycocotools.

        Images and annotations are numbered from 1 in their current order, and categories from 1 in class order.
        """
        images = {image["id"]: number for number, image in enumerate(self.images, 1)}
        categories = {category["id"]: number for number, category in enumerate(self.categories, 1)}
        annotations = []
        for number, annotation in enumerate(self.annotations, 1):
            image, category = images[annotation["image_id"]], categories[annotation["category_id"]]
            annotations.append({**annotation, "id": number, "image_id": image, "category_id": category})
        return {
            "images": [{**image, "id": number} for number, image in enumerate(self.images, 1)],
            "annotations": annotations,
            "categories": [{**category, "id": number} for number, category in enumerate(self.categories, 1)],
        }


@uncollected()
def read_coco(path: Path, folder: Path | None = None, *, lvis: bool = False) -> Coco:
    """Read an annotation file; the findings list its errors and repairs.

    Args:
        path: the JSON file, in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.
        folder: folder of the images, from which missing image sizes are read.
        lvis: whether the file may contain LVIS annotations, which cover only some categories in each image.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    ledger = Ledger(path)
    content = _parse(path, ledger)
    entries = {} if ledger.errors else _lists(content, ledger)
    if not {"images", "categories"} <= entries.keys():
        return Coco(path, findings=ledger.findings())
    images = _by_id("image", entries["images"], ledger, lambda entry, name: _image_fault(entry, name, folder, ledger))
    categories = _by_id(
        "category", entries["categories"], ledger, lambda entry, name: _category_fault(entry, name, ledger)
    )
    _look_at_all(images, categories, ledger, lvis)
    objects = entries.get("annotations", [])
    names = _keypoint_names(categories, objects, ledger)
    annotations = ObjectReader(images, categories, len(names), ledger).read(objects)
    _look_at_names([*categories.values()], annotations, ledger)
    return Coco(
        path,
        sorted(images.values(), key=lambda image: order(image["id"])),
        sorted(categories.values(), key=lambda category: order(category["id"])),
        annotations,
        names,
        ledger.findings(),
        refused=len(objects) - len(annotations),
        is_annotated="annotations" in entries,
    )


def choose_classes(coco: Coco, classes: Sequence[str] = ()) -> Coco:
    """Keep some categories, in the given order, and their annotations; a note counts the others.

    Args:
        coco: result of `read_coco`.
        classes: category names; empty selects all except an unused supercategory, as written by Roboflow. A name that
            the supercategory shares with another category selects the other one.

    Raises:
        ValueError: a name matches no category.
    """
    parent = _empty_parent(coco.categories, coco.annotations)
    if parent is not None and (not classes or coco.classes.count(parent["name"]) > 1):
        coco = _without_parent(coco, parent)
    if not classes:
        return coco
    by_name = {category["name"]: category for category in coco.categories}
    if unknown := [name for name in classes if name not in by_name]:
        raise ValueError(
            f"{coco.path}: CLASSES contains {first_few(unknown)}, but the categories are"
            f" {first_few(coco.classes, 20)}{did_you_mean(unknown[0], by_name)}"
        )
    chosen = [by_name[name] for name in classes]
    left_out = [category for category in coco.categories if category["name"] not in classes]
    counts = Counter(annotation["category_id"] for annotation in coco.annotations)
    lost = [counts[category["id"]] for category in left_out]
    listed = [f"{category['name']} ({count:,})" for category, count in zip(left_out, lost, strict=True)]
    what = f"has {len(left_out):,} categories, with {sum(lost):,} annotations, that are not in CLASSES"
    return _keep(coco, chosen, Finding("note", coco.path, "", what, f"they are ignored: {first_few(listed)}"))


def choose_images(coco: Coco, split: str, hold_out: HoldOut | None) -> Coco:
    """Keep the images of a split, which depends only on their file names, and their annotations.

    Choose the classes first: `choose_classes` looks at all annotations, so that both splits have the same classes.

    Args:
        coco: result of `read_coco` or `choose_classes`.
        split: ``train``, or ``test`` for the held-out images.
        hold_out: how to divide the images; None keeps all.

    Raises:
        ValueError: the file has images, but the split has none, or a split is given without ``hold_out``.
    """
    if hold_out is None:
        if split:
            raise ValueError(f"{coco.path}: SPLIT {split} has no effect without HOLD_OUT; set HOLD_OUT or remove SPLIT")
        return coco
    images = [image for image in coco.images if hold_out.takes(image["file_name"], split)]
    if coco.images and not images:
        raise ValueError(
            f"{coco.path}: has {len(coco.images):,} images, but HOLD_OUT {hold_out.share:g} selects none of them for"
            f" {split}; change HOLD_OUT_SEED, or label more images"
        )
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in coco.annotations if annotation["image_id"] in kept]
    return replace(coco, images=images, annotations=annotations)


def order_categories(coco: Coco, ids: Sequence[Id]) -> Coco:
    """Keep the categories with the given ids, in this order, and their annotations.

    Raises:
        ValueError: an id matches no category.
    """
    by_id = {category["id"]: category for category in coco.categories}
    if unknown := [short(identity) for identity in ids if identity not in by_id]:
        raise ValueError(f"{coco.path} has no category {first_few(unknown)}, which the data set's metadata lists")
    what = f"has {len(by_id) - len(ids):,} categories that are not in the data set's metadata"
    return _keep(coco, [by_id[identity] for identity in ids], Finding("note", coco.path, "", what, ""))


def _keep(coco: Coco, categories: list[Record], note: Finding) -> Coco:
    kept = {category["id"] for category in categories}
    left_out = [category for category in coco.categories if category["id"] not in kept]
    if not left_out:
        return replace(coco, categories=categories)
    annotations = [annotation for annotation in coco.annotations if annotation["category_id"] in kept]
    found = [*coco.findings, note]
    return replace(
        coco, categories=categories, annotations=annotations, findings=found, left_out=[*coco.left_out, *left_out]
    )


def _without_parent(coco: Coco, parent: Record) -> Coco:
    """Leave out the category `_empty_parent`, with a note."""
    what = "is the supercategory of all others and has no annotations"
    others = [category for category in coco.categories if category is not parent]
    named_alike = any(category["name"] == parent["name"] for category in others)
    remedy = "it is not a class" + ("" if named_alike else " unless CLASSES contains it")
    note = Finding("note", coco.path, f"category {short(parent['id'])} ({parent['name']})", what, remedy)
    return _keep(coco, others, note)


def _empty_parent(categories: Sequence[Record], annotations: Iterable[Record]) -> Record | None:
    """Return the category, if any, that has no annotations or supercategory and is the supercategory of all others."""
    below = Counter(str(category.get("supercategory")) for category in categories)
    for category in categories:
        above = str(category.get("supercategory") or "none")
        if above == "none" and 0 < below[category["name"]] == len(categories) - 1:
            used = any(annotation["category_id"] == category["id"] for annotation in annotations)
            return None if used else category
    return None


def _parse(path: Path, ledger: Ledger) -> Any:
    """Parse a JSON file; record an error if it is not valid JSON."""
    data = path.read_bytes()
    beginning = data[:64].lstrip()
    known = next((told for start, told in BEGINNINGS.items() if beginning.startswith(start)), None)
    try:
        if known:
            ledger.error("", *known)
        elif not beginning and len(data) <= 64:
            ledger.error("", "is empty", "export or download it again")
        else:
            return json.loads(data)
    except UnicodeDecodeError as error:
        ledger.error(
            "", f"is not UTF-8, UTF-16 or UTF-32 text (invalid byte at position {error.start:,})", "save it as UTF-8"
        )
    except (ValueError, RecursionError) as error:
        ledger.error("", f"is not JSON ({error})", "the file may be truncated: export or download it again")
    return None


def _lists(content: Any, ledger: Ledger) -> dict[str, list]:
    """Return those of the three lists that the file contains; record an error if any of them is missing."""
    lists = {name: content[name] for name in LISTS if isinstance(content, dict) and isinstance(content.get(name), list)}
    lacking = [name for name in LISTS if name not in lists]
    if lacking:
        what, remedy = found_instead(content)
        ledger.error("", f"lacks the list{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}: it {what}", remedy)
    return lists


def _by_id(
    kind: str, entries: list, ledger: Ledger, fault_of: Callable[[Record, str], tuple[str, str] | None]
) -> dict[Id, Record]:
    """Index the first valid entry for each id in a list, with the id as an integer or text."""
    found: dict[Id, Record] = {}
    repetitions: Counter[Id] = Counter()
    for place, entry in enumerate(entries):
        identity = as_id(entry.get("id")) if type(entry) is dict else None
        if identity is None:
            given = f"the id {brief(entry.get('id'))}" if type(entry) is dict else "no keys"
            ledger.error(f"{kind} number {place} of the list", f"has {given}", "set its id to an integer or a string")
        elif identity in found:
            repetitions[identity] += 1
        elif fault := fault_of(entry, f"{kind} {short(identity)}"):
            ledger.error(f"{kind} {short(identity)}", *fault)
        else:
            entry["id"] = identity
            found[identity] = entry
    for identity, count in repetitions.items():
        remedy = "ids must be unique; renumber the files before merging them"
        ledger.error(f"the {kind} id {short(identity)}", f"occurs {count + 1} times", remedy)
    return found


def _image_fault(image: Record, name: str, folder: Path | None, ledger: Ledger) -> tuple[str, str] | None:
    """Check an image's file name and size; return an error, and what to do, if they are invalid."""
    file_name = image.get("file_name")
    if type(file_name) is not str or not file_name or "\0" in file_name:
        return f"has the file_name {brief(file_name)}", "set it to the name of the image file"
    given = image.pop("width", None), image.pop("height", None)
    sides = as_side(given[0]), as_side(given[1])
    if None in sides and folder is not None:
        try:
            sides = image_size(folder / file_name)
        except FileNotFoundError:
            pass  # reported by the code that needs the file
        except (OSError, ValueError):
            return f"({file_name}) lacks a positive width and height", "add the size, or provide the image file"
        else:
            ledger.count("repaired", name, "lacks a positive width and height", "its size is read from the image file")
    elif None not in sides and sides != given:
        ledger.count("repaired", name, "has a width or height given as text", "read as a number")
    if None not in sides:
        image["width"], image["height"] = sides
    return None


def _category_fault(category: Record, name: str, ledger: Ledger) -> tuple[str, str] | None:
    """Convert a category's name to text; return an error, and what to do, if it is invalid."""
    given = category.get("name")
    if type(given) not in (str, int, float) or not str(given).strip():
        return f"has the name {brief(given)}", "set it to a non-empty name"
    category["name"] = str(given).strip()
    if category["name"] != given:
        ledger.count(
            "repaired", name, "has a name that is a number or has spaces around it", "read as text without the spaces"
        )
    return None


def _look_at_all(images: Mapping[Id, Record], categories: Mapping[Id, Record], ledger: Ledger, lvis: bool) -> None:
    """Check the lists of images and categories as a whole, except the names of the categories.

    Each record in the lists is valid.
    """
    if not images:
        ledger.error("", "lists no images, so the data set is empty", "add the images")
    if not categories:
        ledger.error("", "lists no categories", "add the categories")
    files = {identity: os.path.normpath(image["file_name"]) for identity, image in images.items()}
    _look_at_shared("images", "file", files, ledger)
    if not lvis and any("neg_category_ids" in image for image in images.values()):
        what = "contains LVIS annotations (neg_category_ids), which COCO's metrics cannot evaluate correctly"
        sets = "DATASETS.TEST \"('lvis_v0.5_val',)\" or --dataset lvis_v0.5_val"
        ledger.error("", what, f"use one of detectron2's lvis_... data sets, for example {sets}")


def _look_at_names(categories: Sequence[Record], annotations: Sequence[Record], ledger: Ledger) -> None:
    """Check that categories have different names, except an unused supercategory, which is not a class."""
    parent = _empty_parent(categories, annotations)
    names = {category["id"]: category["name"] for category in categories if category is not parent}
    _look_at_shared("categories", "name", names, ledger)


def _look_at_shared(kind: str, what: str, values: Mapping[Id, str], ledger: Ledger) -> None:
    """Check that records have different values; ``values`` maps their ids to them."""
    sharing: defaultdict[str, list[str]] = defaultdict(list)
    for identity, value in values.items():
        sharing[value].append(short(identity))
    for value, ids in sharing.items():
        if len(ids) > 1:
            ledger.error(f"{kind} {first_few(ids)}", f"share the {what} {value}", "keep only one of them")


def _keypoint_names(categories: Mapping[Id, Record], entries: list, ledger: Ledger) -> tuple[str, ...]:
    """Return the keypoint names if any annotation has keypoints; () with a note if training cannot use them."""
    if not any(type(entry) is dict and entry.get("keypoints") for entry in entries):
        return ()
    named = [category for category in categories.values() if category.get("keypoints")]
    if not named:
        what = "has objects with keypoints, but no category lists the keypoint names"
        ledger.count("note", "", what, f'{KEYPOINTS}, add "keypoints": ["nose", "left_eye", ...] to a category')
        return ()
    names = named[0]["keypoints"]
    first = f"category {short(named[0]['id'])} ({named[0]['name']})"
    if other := next((category["name"] for category in named if category["keypoints"] != names), None):
        what = f"has different keypoints from {other}, but a detector predicts the same keypoints for all categories"
        ledger.count("note", first, what, f"{KEYPOINTS}, split the categories into two files")
    elif type(names) is not list or any(type(word) is not str for word in names) or repeated(names):
        what = f"has the keypoints {brief(names)}"
        ledger.count("note", first, what, f"{KEYPOINTS}, list the names of the keypoints, each only once")
    elif alone := [word for word in names if mirrored(word) not in names]:
        what = f"has the keypoints {first_few(alone)} without a {LEFT}… or {RIGHT}… counterpart"
        ledger.count(
            "note", first, what, f"{KEYPOINTS}, add the counterparts, because mirrored images swap left and right"
        )
    else:
        return tuple(names)
    return ()


def mirrored(word: str) -> str:
    """Return a keypoint's name in the mirrored image, such as ``right_eye`` for ``left_eye``."""
    for side, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        if word.startswith(side):
            return other + word.removeprefix(side)
    return word
