"""JSON files in COCO's format, as LVIS uses it too: their records, what these refer to, boxes and polygons."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from .faults import Fault, ImageJob, Size, Tally, box_fault, check_images, files_below, lies_inside, repeated

Record = Mapping[str, Any]
NAMES = frozenset({"file_name", "name"})


@dataclass
class Records:
    """What a JSON file in COCO's format holds, of what is well formed.

    ``images`` and ``categories`` are by id, and ``sizes`` are the images' own of those that give one.
    """

    path: Path
    images: dict[Any, Record]
    categories: dict[Any, Record]
    annotations: list[Record]
    sizes: dict[Any, Size]


def read_records(path: Path) -> tuple[Records | None, list[Fault]]:
    """Read a JSON file in COCO's format; return what is well formed, None if nothing is, and what is not."""
    try:
        content = _content(path)
    except (ValueError, RecursionError) as error:
        return None, [Fault(path, f"is not JSON ({error}); unpack its archive with --again, or fetch it again")]
    lists = ("images", "annotations", "categories")
    if lacking := [name for name in lists if not isinstance(content.get(name), list)]:
        return None, [Fault(path, f"lacks the list {', '.join(lacking)}; it is no COCO file of instances")]
    faults: list[Fault] = []
    images = _by_id(path, "image", content["images"], ("id", "file_name"), faults)
    categories = _by_id(path, "category", content["categories"], ("id", "name"), faults)
    annotations = _by_id(path, "annotation", content["annotations"], ("id", "image_id", "category_id", "bbox"), faults)
    if not images:
        faults.append(Fault(path, "names no image"))
    sizes = {}
    for image_id, record in images.items():
        size = (record.get("width"), record.get("height"))
        if all(type(side) is int and is_numbers([side]) and side > 0 for side in size):
            sizes[image_id] = size
        else:
            faults.append(Fault(path, f"image {image_id} ({record['file_name']}) lacks a width and a height above 0"))
    return Records(path, images, categories, list(annotations.values()), sizes), faults


def repeated_file_names(records: Records) -> Iterator[Fault]:
    """Yield a fault for each image file that two images share."""
    for name in repeated(record["file_name"] for record in records.images.values()):
        ids = [str(image_id) for image_id, record in records.images.items() if record["file_name"] == name]
        yield Fault(records.path, f"images {', '.join(ids)} share the file {name}; keep one of them")


def image_file_faults(
    records: Records, files: Mapping[Any, Path], tally: Tally, workers: int, looked_at: set[Path]
) -> Iterator[Fault]:
    """Yield the faults of the image files, whose paths by image id are ``files``.

    Folders that are missing are told, not each of their files. Files in ``looked_at`` are passed over, and the others
    entered.
    """
    for folder in sorted({path.parent for path in files.values()} - looked_at):
        if not folder.is_dir():
            yield Fault(folder, f"is missing; {records.path} names images in it")
    there: dict[Path, set[str]] = {}  # each folder is read once instead of asking for each of a hundred thousand files
    jobs = []
    for image_id, path in files.items():
        if path.parent not in there:
            there[path.parent] = files_below(path.parent)
        if path in looked_at or not path.parent.is_dir():
            continue
        if path.name in there[path.parent]:
            jobs.append(ImageJob(path, records.sizes.get(image_id), records.path.name))
        else:
            what = f"is missing, and image {image_id} of {records.path} is in it"
            yield Fault(path, f"{what}; unpack the images with --again, or fetch it")
    looked_at.update(files.values(), there)
    tally.counts["images"] += len(jobs)
    yield from check_images(jobs, workers)


def annotation_name(annotation: Record) -> str:
    """Return what messages call an annotation."""
    return f"annotation {annotation['id']} (image {annotation['image_id']})"


def reference_faults(records: Records, annotation: Record) -> Iterator[Fault]:
    """Yield a fault if the annotation is of an image or a category that is not in the file, or its box is not right."""
    name = annotation_name(annotation)
    if annotation["image_id"] not in records.images:
        yield Fault(records.path, f"{name} is of an image that is not in the file; remove it or add the image")
    if annotation["category_id"] not in records.categories:
        yield Fault(records.path, f"{name} is of category {annotation['category_id']}, which is not in the file")
    bbox = annotation["bbox"]
    if not is_numbers(bbox) or len(bbox) != 4:
        yield Fault(records.path, f"{name} has the bbox {brief(bbox)}; it must be four numbers: x, y, width, height")
    elif fault := box_fault(_corners(bbox), records.sizes.get(annotation["image_id"])):
        yield Fault(records.path, f"{name}: the bbox {bbox} {fault}")


def _corners(bbox: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def polygon_fault(polygons: object, size: Size | None) -> str | None:
    """Say what is wrong with a mask of polygons ``[[x, y, x, y, ...], ...]``, pixels, if anything is."""
    if not isinstance(polygons, list) or not polygons:
        return "has a segmentation without a polygon"
    for polygon in polygons:
        if not is_numbers(polygon) or len(polygon) % 2:
            return "has a polygon that is not a list of x, y, x, y, ...: an even number of numbers"
        if len(polygon) < 6:
            return f"has a polygon of {len(polygon) // 2} points; three are the least"
        if size is not None and not lies_inside(polygon[0::2], polygon[1::2], size):
            return f"has a polygon that is not inside the image, which is {size[0]} x {size[1]}"
    return None


def is_numbers(values: object) -> bool:
    """Tell whether ``values`` is a list of finite numbers, not empty."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in values)
    )


def _content(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    return content if isinstance(content, dict) else {}


def _by_id(path: Path, what: str, entries: list, keys: tuple[str, ...], faults: list[Fault]) -> dict[Any, Record]:
    """Index the well-formed ``entries`` by id, the first of each; say what is wrong with the others in ``faults``.

    ``keys`` are what an entry must have: names, ids, and "bbox", which is looked at later.
    """
    found: dict[Any, Record] = {}
    repetitions: defaultdict[Any, int] = defaultdict(int)
    for number, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        unusable = lacking or [
            key for key in keys if key != "bbox" and type(entry[key]) not in ((str,) if key in NAMES else (int, str))
        ]
        if unusable:
            usable = "" if lacking else "a usable "
            faults.append(Fault(path, f"{what} number {number} of the list lacks {usable}{', '.join(unusable)}"))
        elif entry["id"] in found:
            repetitions[entry["id"]] += 1
        else:
            found[entry["id"]] = entry
    for identity, count in repetitions.items():
        faults.append(Fault(path, f"the {what} id {identity} occurs {count + 1} times; ids must differ"))
    return found
