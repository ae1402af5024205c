"""JSON files in COCO's format, which LVIS uses too: their records, what these refer to, boxes, masks, keypoints."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from reprlib import repr as brief
from typing import Any, TypeGuard

from mocodet.common.text import repeated

from .findings import Fault, Tally
from .images import ImageJob, Size, box_fault, by, check_images, files_below, outside_fault

Record = Mapping[str, Any]

ID, NAME, LATER = (int, str), (str,), ()
# list -> what messages call an entry of it, and the keys that it must have, of which types; LATER: looked at later.
LISTS = {
    "images": ("image", {"id": ID, "file_name": NAME}),
    "annotations": ("annotation", {"id": ID, "image_id": ID, "category_id": ID, "bbox": LATER}),
    "categories": ("category", {"id": ID, "name": NAME}),
}
KEYPOINTS = 17  # of COCO's persons


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


def check_json(path: Path, images: Path, tally: Tally, *, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of one JSON file of instances (boxes, masks, keypoints) and of its images.

    Args:
        path: the JSON file.
        images: the folder that its file names are relative to.
        tally: gets what was looked at.
        workers: processes that decode images; 0: this one does.
    """
    if records := (yield from read_records(path)):
        yield from instances_faults(records, images, tally, workers)


def read_records(path: Path) -> Generator[Fault, None, Records | None]:
    """Read a JSON file in COCO's format; yield what is not well formed, return what is, None if nothing is."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        yield Fault(path, f"is not JSON ({error}); unpack its archive with --again, or fetch it again")
        return None
    if not isinstance(content, dict):
        content = {}
    if lacking := [name for name in LISTS if not isinstance(content.get(name), list)]:
        yield Fault(path, f"lacks the list {', '.join(lacking)}; it is no COCO file of instances")
        return None
    by_id = {}
    for name, (what, keys) in LISTS.items():
        by_id[name] = yield from _by_id(path, what, content[name], keys)
    if not by_id["images"]:
        yield Fault(path, "names no image")
    sizes = {}
    for image_id, record in by_id["images"].items():
        size = (record.get("width", 0), record.get("height", 0))
        if all(type(side) is int and is_numbers([side]) and side > 0 for side in size):
            sizes[image_id] = size
        else:
            yield Fault(path, f"image {image_id} ({record['file_name']}) lacks a width and a height above 0")
    return Records(path, by_id["images"], by_id["categories"], list(by_id["annotations"].values()), sizes)


def instances_faults(records: Records, folder: Path, tally: Tally, workers: int) -> Iterator[Fault]:
    """Yield the faults of what a file of instances holds, and of its images in ``folder``."""
    first = folder not in tally.looked_at
    files = {image_id: folder / record["file_name"] for image_id, record in records.images.items()}
    yield from image_file_faults(records, files, tally, workers)
    unknown = len({folder / name for name in files_below(folder)} - set(files.values()))
    if unknown and first:
        tally.notes.append(f"{folder}: {unknown:,} files are not in {records.path.name}")
    yield from (Fault(records.path, what) for what in _category_faults(records.categories))
    yield from annotation_faults(records, tally, partial(_instance_faults, records.categories))
    tally.counts["annotations with keypoints"] += sum("keypoints" in record for record in records.annotations)


def image_file_faults(records: Records, files: Mapping[Any, Path], tally: Tally, workers: int) -> Iterator[Fault]:
    """Yield the faults of the image files, whose paths by image id are ``files``; each must be of one image.

    Folders that are missing are told, not each of their files. Files that have been looked at are passed over.
    """
    for name in repeated(record["file_name"] for record in records.images.values()):
        ids = [str(image_id) for image_id, record in records.images.items() if record["file_name"] == name]
        yield Fault(records.path, f"images {', '.join(ids)} share the file {name}; keep one of them")
    # Each folder is read once instead of asking for each of a hundred thousand files.
    there = {folder: files_below(folder) for folder in sorted({path.parent for path in files.values()})}
    for folder in there:
        if folder not in tally.looked_at and not folder.is_dir():
            yield Fault(folder, f"is missing; {records.path} names images in it")
    jobs = []
    for image_id, path in files.items():
        if path in tally.looked_at or not path.parent.is_dir():
            continue
        if path.name in there[path.parent]:
            jobs.append(ImageJob(path, records.sizes.get(image_id), records.path.name))
        else:
            what = f"is missing, and image {image_id} of {records.path} is in it"
            yield Fault(path, f"{what}; unpack the images with --again, or fetch it")
    tally.looked_at.update(files.values(), there)
    yield from check_images(jobs, tally, workers)


def annotation_name(annotation: Record) -> str:
    """Return what messages call an annotation."""
    return f"annotation {annotation['id']} (image {annotation['image_id']})"


def annotation_faults(
    records: Records, tally: Tally, further: Callable[[Record, Size | None], Iterable[str | None]]
) -> Iterator[Fault]:
    """Yield what is wrong with each annotation: with its image, its category, its box, and what ``further`` says.

    ``further`` gets the annotation and the size of its image; None among what it says is nothing wrong.
    """
    for annotation in records.annotations:
        tally.counts["annotations"] += 1
        name, size, bbox = annotation_name(annotation), records.sizes.get(annotation["image_id"]), annotation["bbox"]
        if annotation["image_id"] not in records.images:
            yield Fault(records.path, f"{name} is of an image that is not in the file; remove it or add the image")
        if annotation["category_id"] not in records.categories:
            yield Fault(records.path, f"{name} is of category {annotation['category_id']}, which is not in the file")
        if not is_numbers(bbox, 4):
            yield Fault(
                records.path, f"{name} has the bbox {brief(bbox)}; it must be four numbers: x, y, width, height"
            )
        else:
            x, y, width, height = map(float, bbox)
            if fault := box_fault((x, y, x + width, y + height), size):
                yield Fault(records.path, f"{name}: the bbox {bbox} {fault}")
        yield from (Fault(records.path, f"{name} {what}") for what in further(annotation, size) if what)


def polygon_fault(polygons: object, size: Size | None) -> str | None:
    """Say what is wrong with a mask of polygons ``[[x, y, x, y, ...], ...]``, pixels, if anything is."""
    if not isinstance(polygons, list) or not polygons:
        return "has a segmentation without a polygon"
    for polygon in polygons:
        if not is_numbers(polygon) or len(polygon) % 2:
            return "has a polygon that is not a list of x, y, x, y, ...: an even number of numbers"
        if len(polygon) < 6:
            return f"has a polygon of {len(polygon) // 2} points; three are the least"
        if outside := outside_fault(polygon[0::2], polygon[1::2], size):
            return f"has a polygon that {outside}"
    return None


def is_numbers(values: object, length: int | None = None) -> TypeGuard[list[float]]:
    """Tell whether ``values`` is a list of finite numbers, not empty, ``length`` of them if given."""
    return (
        isinstance(values, list)
        and bool(values)
        and length in (None, len(values))
        and all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in values)
    )


def _by_id(
    path: Path, what: str, entries: list, keys: Mapping[str, tuple]
) -> Generator[Fault, None, dict[Any, Record]]:
    """Index the well-formed ``entries``, which have ``keys``, by id, the first of each; yield faults for the others."""
    found: dict[Any, Record] = {}
    repetitions: Counter[Any] = Counter()
    for number, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        unusable = lacking or [key for key, types in keys.items() if types and type(entry[key]) not in types]
        if unusable:
            usable = "" if lacking else "a usable "
            yield Fault(path, f"{what} number {number} of the list lacks {usable}{', '.join(unusable)}")
        elif entry["id"] in found:
            repetitions[entry["id"]] += 1
        else:
            found[entry["id"]] = entry
    for identity, count in repetitions.items():
        yield Fault(path, f"the {what} id {identity} occurs {count + 1} times; ids must differ")
    return found


def _category_faults(categories: Mapping[Any, Record]) -> Iterator[str]:
    for name in repeated(record["name"] for record in categories.values()):
        yield f"two categories are called {name!r}; names must differ"
    for identity, category in categories.items():
        if not isinstance(category.get("keypoints", []), list):
            what = f"has the keypoints {brief(category['keypoints'])}; it must be the list of their names"
            yield f"category {identity} ({category['name']}) {what}"
    if not categories:
        yield "has no category"


def _instance_faults(categories: Mapping[Any, Record], annotation: Record, size: Size | None) -> Iterator[str | None]:
    if annotation.get("iscrowd") not in (0, 1):  # pycocotools' COCOeval fails where there is none
        yield f"has iscrowd {brief(annotation.get('iscrowd'))}; it must be 0 or 1"
    if not is_numbers([annotation.get("area")]) or annotation["area"] < 0:
        yield f"has the area {brief(annotation.get('area'))}; COCO's AP needs it, in pixels"
    segmentation = annotation.get("segmentation")
    if segmentation is not None:
        yield _rle_fault(segmentation, size) if isinstance(segmentation, dict) else polygon_fault(segmentation, size)
    if "keypoints" in annotation:
        yield from _keypoint_faults(annotation, categories.get(annotation["category_id"], {}).get("keypoints"), size)


def _rle_fault(rle: Mapping[str, Any], size: Size | None) -> str | None:
    """Say what is wrong with a run-length-encoded mask, ``size`` (height, width) and ``counts``, if anything is.

    ``counts`` as text is compressed by pycocotools, and only that it is text is looked at.
    """
    found = rle.get("size")
    if not is_numbers(found, 2):
        return f"has an RLE of size {brief(found)}; it must be [height, width]"
    if size is not None and tuple(found) != size[::-1]:
        return f"has an RLE of {found[1]} x {found[0]} pixels, but its image is {by(size)}"
    counts = rle.get("counts")
    if isinstance(counts, str) and counts:
        return None
    if not is_numbers(counts) or min(counts) < 0:
        return "has an RLE without counts"
    if sum(counts) != found[0] * found[1]:
        return f"has an RLE whose counts make {sum(counts)} pixels instead of {found[0]} x {found[1]}"
    return None


def _keypoint_faults(annotation: Record, names: object, size: Size | None) -> Iterator[str]:
    """Say what is wrong with the keypoints of an annotation, whose category calls them ``names``."""
    keypoints = annotation["keypoints"]
    numbers = 3 * (len(names) if isinstance(names, list) else KEYPOINTS)
    if not is_numbers(keypoints, numbers):
        yield f"must have {numbers} numbers as keypoints: x, y and visibility of each"
        return
    triples = list(zip(*[iter(keypoints)] * 3, strict=True))
    if any(visibility not in (0, 1, 2) for _, _, visibility in triples):
        yield "has a keypoint whose visibility is not 0, 1 or 2"
    labelled = [triple for triple in triples if triple[2] > 0]
    if annotation.get("num_keypoints", len(labelled)) != len(labelled):
        yield f"has num_keypoints {annotation['num_keypoints']}, but {len(labelled)} keypoints of visibility above 0"
    if labelled and (outside := outside_fault([x for x, _, _ in labelled], [y for _, y, _ in labelled], size)):
        yield f"has a keypoint that {outside}"
