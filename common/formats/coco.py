"""COCO's JSON of objects (cocodataset.org/#format-data): boxes, masks and keypoints; one reader for all uses.

The reader fills in what tools leave out (sizes of images, ``iscrowd``, ``area``, ``num_keypoints``, ids of
annotations), and rewrites what differs from COCO but has only one possible meaning.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from mocodet.common.text import did_you_mean, first_few, repeated

from .coco_objects import ObjectReader
from .coco_values import Id, Record, as_id, as_side, order, short, uncollected
from .findings import Finding, Ledger
from .image import image_size
from .not_coco import found_instead

LISTS = ("images", "annotations", "categories")
# Beginnings of files that are called JSON but hold something else; what that is, and what to do.
BEGINNINGS = {
    b"version https://git-lfs": ("is a pointer of Git LFS, not the file itself", "run git lfs pull"),
    b"<": ("is a page of HTML or XML", "export or fetch it again, as JSON"),
    b"PK": ("is a zip archive", "unpack it"),
    b"\x1f\x8b": ("is compressed by gzip", "unpack it"),
}
LEFT, RIGHT = "left_", "right_"
KEYPOINTS = "of no use for MODEL.KEYPOINT_ON"


@dataclass(frozen=True)
class Coco:
    """The valid content of a file in COCO's format, with repairs.

    Attributes:
        path: the file.
        images: by id, ascending. ``id`` is the file's own, a whole number or text; ``width`` and ``height`` are
            whole numbers above 0, or both absent.
        categories: in the order of the classes: by id, ascending, or as chosen. ``name`` is text.
        annotations: in the file's order. All have ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width, height
            in pixels), ``iscrowd`` (0 or 1) and ``area`` (square pixels); those with a mask ``segmentation``, polygons
            or run lengths; those with keypoints ``keypoints`` and ``num_keypoints``.
        keypoint_names: names of the keypoints; empty if no annotation has keypoints, or if they cannot be learned, as a
            note explains.
        findings: at least one error for each annotation of the file that is not among ``annotations``; repairs, notes.
        left_out: the categories that were not chosen.
        refused: number of annotations of the file that are not among ``annotations``.
        is_annotated: the file has a list of annotations; files for COCO's test images have none.
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
        """Names of the categories, in the order of the model's indices."""
        return tuple(category["name"] for category in self.categories)

    def content(self) -> dict[str, list[Record]]:
        """Return the records as in a file in COCO's format."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}

    def numbered(self) -> dict[str, list[Record]]:
        """Return copies of the records with whole numbers as ids, as pycocotools needs them.

        Images and annotations are numbered from 1 in their order here, categories from 1 in the order of the classes.
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
    """Read a file of annotations; the findings list its errors and repairs.

    Args:
        path: the JSON file, in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.
        folder: folder of its images, read for sizes that the file lacks.
        lvis: the annotations may be LVIS's, which cover only some categories in each image.

    Raises:
        FileNotFoundError: there is no such file.
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
    """Keep some categories, in this order, and their annotations; a note counts those left out.

    Args:
        coco: as from `read_coco`.
        classes: names of categories. Empty: all, except the unused supercategory that Roboflow writes.

    Raises:
        ValueError: no category has such a name.
    """
    if not classes:
        parent = _empty_parent(coco)
        if parent is None:
            return coco
        what = "is the supercategory of all others and has no annotation"
        record, remedy = f"category {short(parent['id'])} ({parent['name']})", "it is no class, unless CLASSES names it"
        note = Finding("note", coco.path, record, what, remedy)
        return _keep(coco, [category for category in coco.categories if category is not parent], note)
    by_name = {category["name"]: category for category in coco.categories}
    if unknown := [name for name in classes if name not in by_name]:
        raise ValueError(
            f"{coco.path}: CLASSES names {first_few(unknown)}, but the categories are"
            f" {first_few(coco.classes, 20)}{did_you_mean(unknown[0], by_name)}"
        )
    chosen = [by_name[name] for name in classes]
    left_out = [category for category in coco.categories if category["name"] not in classes]
    counts = Counter(annotation["category_id"] for annotation in coco.annotations)
    lost = [counts[category["id"]] for category in left_out]
    listed = [f"{category['name']} ({count:,})" for category, count in zip(left_out, lost, strict=True)]
    what = f"has {len(left_out):,} categories, with {sum(lost):,} annotations, that CLASSES leaves out"
    return _keep(coco, chosen, Finding("note", coco.path, "", what, first_few(listed)))


def order_categories(coco: Coco, ids: Sequence[Id]) -> Coco:
    """Keep the categories with some ids, in this order, and their annotations.

    Raises:
        ValueError: no category has such an id.
    """
    by_id = {category["id"]: category for category in coco.categories}
    if unknown := [short(identity) for identity in ids if identity not in by_id]:
        raise ValueError(f"{coco.path} has no category {first_few(unknown)}, which the data set's metadata name")
    what = f"has {len(by_id) - len(ids):,} categories that the data set's metadata do not name"
    return _keep(coco, [by_id[identity] for identity in ids], Finding("note", coco.path, "", what, ""))


def _keep(coco: Coco, categories: list[Record], note: Finding) -> Coco:
    kept = {category["id"] for category in categories}
    left_out = [category for category in coco.categories if category["id"] not in kept]
    if not left_out:
        return replace(coco, categories=categories)
    annotations = [annotation for annotation in coco.annotations if annotation["category_id"] in kept]
    found = [*coco.findings, note]
    return replace(coco, categories=categories, annotations=annotations, findings=found, left_out=left_out)


def _empty_parent(coco: Coco) -> Record | None:
    """Find the category that has no annotations and no supercategory, and is the supercategory of all others."""
    below = Counter(str(category.get("supercategory")) for category in coco.categories)
    for category in coco.categories:
        above = str(category.get("supercategory") or "none")
        if above == "none" and 0 < below[category["name"]] == len(coco.categories) - 1:
            used = any(annotation["category_id"] == category["id"] for annotation in coco.annotations)
            return None if used else category
    return None


def _parse(path: Path, ledger: Ledger) -> Any:
    """Parse a JSON file; enter an error if it is not JSON."""
    data = path.read_bytes()
    beginning = data[:64].lstrip()
    known = next((told for start, told in BEGINNINGS.items() if beginning.startswith(start)), None)
    try:
        if known:
            ledger.error("", *known)
        elif not beginning and len(data) <= 64:
            ledger.error("", "is empty", "export or fetch it again")
        else:
            return json.loads(data)
    except UnicodeDecodeError as error:
        ledger.error("", f"is not UTF-8, UTF-16 or UTF-32: byte {error.start:,} does not fit", "save it as UTF-8")
    except (ValueError, RecursionError) as error:
        ledger.error("", f"is not JSON ({error})", "it may be cut off: export or fetch it again")
    return None


def _lists(content: Any, ledger: Ledger) -> dict[str, list]:
    """Return the three lists in the content of a file, as far as they exist; enter an error if one is missing."""
    lists = {name: content[name] for name in LISTS if isinstance(content, dict) and isinstance(content.get(name), list)}
    lacking = [name for name in LISTS if name not in lists]
    if lacking:
        what, remedy = found_instead(content)
        ledger.error("", f"lacks the list {', '.join(lacking)}: it {what}", remedy)
    return lists


def _by_id(
    kind: str, entries: list, ledger: Ledger, fault_of: Callable[[Record, str], tuple[str, str] | None]
) -> dict[Id, Record]:
    """Index the valid entries of a list by id, the first of each; the id becomes a whole number or text."""
    found: dict[Id, Record] = {}
    repetitions: Counter[Id] = Counter()
    for place, entry in enumerate(entries):
        identity = as_id(entry.get("id")) if type(entry) is dict else None
        if identity is None:
            given = f"the id {brief(entry.get('id'))}" if type(entry) is dict else "no keys"
            ledger.error(f"{kind} number {place} of the list", f"has {given}", "give it a whole number or text as id")
        elif identity in found:
            repetitions[identity] += 1
        elif fault := fault_of(entry, f"{kind} {short(identity)}"):
            ledger.error(f"{kind} {short(identity)}", *fault)
        else:
            entry["id"] = identity
            found[identity] = entry
    for identity, count in repetitions.items():
        remedy = "ids must differ: renumber the files before joining them"
        ledger.error(f"the {kind} id {short(identity)}", f"occurs {count + 1} times", remedy)
    return found


def _image_fault(image: Record, name: str, folder: Path | None, ledger: Ledger) -> tuple[str, str] | None:
    """Check an image's file name and size; return what is wrong, and what to do."""
    file_name = image.get("file_name")
    if type(file_name) is not str or not file_name or "\0" in file_name:
        return f"has the file_name {brief(file_name)}", "name its file"
    given = image.pop("width", None), image.pop("height", None)
    sides = as_side(given[0]), as_side(given[1])
    if None in sides and folder is not None:
        try:
            sides = image_size(folder / file_name)
        except FileNotFoundError:
            pass  # whoever needs the file reports it
        except (OSError, ValueError):
            return f"({file_name}) lacks a width and a height above 0", "write its size, or bring its file"
        else:
            ledger.count("repaired", name, "lacks a width and a height above 0", "its size is taken from its file")
    elif None not in sides and sides != given:
        ledger.count("repaired", name, "has a width or a height that is text", "read as a number")
    if None not in sides:
        image["width"], image["height"] = sides
    return None


def _category_fault(category: Record, name: str, ledger: Ledger) -> tuple[str, str] | None:
    """Turn the name of a category into text; return what is wrong, and what to do."""
    given = category.get("name")
    if type(given) not in (str, int, float) or not str(given).strip():
        return f"has the name {brief(given)}", "give it a name"
    category["name"] = str(given).strip()
    if category["name"] != given:
        ledger.count("repaired", name, "has a name that is a number, or with blanks around it", "read as text")
    return None


def _look_at_all(images: Mapping[Id, Record], categories: Mapping[Id, Record], ledger: Ledger, lvis: bool) -> None:
    """Find the faults of images or categories as a whole; each by itself is valid."""
    if not images:
        ledger.error("", "names no image: the data set is empty", "list the images")
    if not categories:
        ledger.error("", "has no category", "list the categories")
    for kind, what, records, key in (
        ("images", "file", images, "file_name"),
        ("categories", "name", categories, "name"),
    ):
        for value in repeated(record[key] for record in records.values()):
            ids = [short(identity) for identity, record in records.items() if record[key] == value]
            ledger.error(f"{kind} {first_few(ids)}", f"share the {what} {value}", "keep one of them")
    if not lvis and any("neg_category_ids" in image for image in images.values()):
        what = "holds annotations of LVIS (neg_category_ids), which COCO's metrics would misjudge"
        sets = "DATASETS.TEST \"('lvis_v0.5_val',)\" or --dataset lvis_v0.5_val"
        ledger.error("", what, f"use one of detectron2's data sets lvis_..., as {sets}")


def _keypoint_names(categories: Mapping[Id, Record], entries: list, ledger: Ledger) -> tuple[str, ...]:
    """Return the names of the keypoints, if annotations have any; () with a note if they cannot be learned."""
    if not any(type(entry) is dict and entry.get("keypoints") for entry in entries):
        return ()
    named = [category for category in categories.values() if category.get("keypoints")]
    if not named:
        what = "has objects with keypoints, but no category names them"
        ledger.count("note", "", what, f'{KEYPOINTS}: a category needs "keypoints": ["nose", "left_eye", ...]')
        return ()
    names = named[0]["keypoints"]
    first = f"category {short(named[0]['id'])} ({named[0]['name']})"
    if other := next((category["name"] for category in named if category["keypoints"] != names), None):
        what = f"has other keypoints than {other}, but a detector predicts the same for all"
        ledger.count("note", first, what, f"{KEYPOINTS}: split them into two files")
    elif type(names) is not list or any(type(word) is not str for word in names) or repeated(names):
        what = f"has the keypoints {brief(names)}"
        ledger.count("note", first, what, f"{KEYPOINTS}: it must be the list of their names, which differ")
    elif alone := [word for word in names if mirrored(word) not in names]:
        what = f"has the keypoints {first_few(alone)} without a counterpart {LEFT}… or {RIGHT}…"
        ledger.count("note", first, what, f"{KEYPOINTS}: mirrored images would teach wrong sides")
    else:
        return tuple(names)
    return ()


def mirrored(word: str) -> str:
    """Return the name of a keypoint in a mirrored image: ``right_eye`` for ``left_eye``."""
    for side, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        if word.startswith(side):
            return other + word.removeprefix(side)
    return word
