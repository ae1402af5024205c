"""COCO 2017 (cocodataset.org): boxes, masks, keypoints; and any JSON file in its format."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .archives import Archive, inside
from .faults import (
    Fault,
    ImageJob,
    Size,
    Tally,
    box_fault,
    check_images,
    count_fault,
    files_below,
    lies_inside,
    repeated,
)
from .steps import Plan

# Addresses as cocodataset.org/#download gives them. It publishes no checksums; these are the ones that users of the
# files agree on (PaddlePaddle's and Avalanche's downloaders, for example), as are the sizes in bytes.
ARCHIVES = (
    Archive(
        name="annotations_trainval2017.zip",
        part="annotations",
        place=inside(("annotations", "coco/annotations")),
        targets=tuple(
            f"coco/annotations/{kind}_{split}2017.json"
            for kind in ("instances", "person_keypoints")
            for split in ("train", "val")
        ),
        size=252_907_541,
        unpacked=830_000_000,
        url="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        md5="f4bbac642086de4f52a3fdda2de5fa2c",
    ),
    Archive(
        name="val2017.zip",
        part="val2017",
        place=inside(("val2017", "coco/val2017")),
        targets=("coco/val2017",),
        size=815_585_330,
        unpacked=830_000_000,
        url="http://images.cocodataset.org/zips/val2017.zip",
        md5="442b8da7639aecaf257c1dceb8ba8c80",
    ),
    Archive(
        name="train2017.zip",
        part="train2017",
        place=inside(("train2017", "coco/train2017")),
        targets=("coco/train2017",),
        size=19_336_861_798,
        unpacked=19_700_000_000,
        url="http://images.cocodataset.org/zips/train2017.zip",
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
    ),
)

IMAGE_COUNTS = {"train2017": 118_287, "val2017": 5_000}
CATEGORY_COUNTS = {"instances": 80, "person_keypoints": 1}

Record = Mapping[str, Any]


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


def plan(root: Path) -> Plan:
    """Say how COCO 2017 comes below ``root``."""
    return Plan(ARCHIVES)


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of the instances and keypoints of COCO 2017 below ``root``; arguments as in `voc.check`."""
    looked_at: set[Path] = set()  # the two files of a split list the same images
    for split, number in IMAGE_COUNTS.items():
        for kind, categories in CATEGORY_COUNTS.items():
            path = root / "coco" / "annotations" / f"{kind}_{split}.json"
            if not path.is_file():
                yield Fault(path, "is missing; unpack annotations_trainval2017.zip again")
                continue
            records, faults = read_records(path)
            yield from faults
            if records is None:
                continue
            yield from _check_records(records, root / "coco" / split, tally, workers, looked_at)
            if not any_size:
                yield from count_fault(path, "images", len(records.images), number)
                yield from count_fault(path, "categories", len(records.categories), categories)


def check_json(path: Path, images: Path, tally: Tally, *, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of one JSON file of instances (boxes, masks, keypoints) and of its images.

    Args:
        path: the JSON file.
        images: the folder that its file names are relative to.
        tally: gets what was looked at.
        workers: processes that decode images; 0: this one does.
    """
    records, faults = read_records(path)
    yield from faults
    if records is not None:
        yield from _check_records(records, images, tally, workers, set())


def read_records(path: Path) -> tuple[Records | None, list[Fault]]:
    """Read a JSON file in COCO's format; return what is well formed, None if nothing is, and what is not."""
    try:
        content = _content(path)
    except ValueError as error:
        return None, [Fault(path, f"is not JSON ({error}); fetch it again")]
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
        if all(isinstance(side, int) and side > 0 for side in size):
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
            yield Fault(path, f"is missing, and image {image_id} of {records.path} is in it; unpack the images again")
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
        yield Fault(records.path, f"{name} has the bbox {bbox!r}; it must be four numbers: x, y, width, height")
    elif fault := box_fault(
        (bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]), records.sizes.get(annotation["image_id"])
    ):
        yield Fault(records.path, f"{name}: the bbox {bbox} {fault}")


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
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _content(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    return content if isinstance(content, dict) else {}


def _by_id(path: Path, what: str, entries: list, keys: tuple[str, ...], faults: list[Fault]) -> dict[Any, Record]:
    """Index the well-formed ``entries`` by id, the first of each; say what is wrong with the others in ``faults``."""
    found: dict[Any, Record] = {}
    repetitions: defaultdict[Any, int] = defaultdict(int)
    for number, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if lacking or not all(isinstance(entry[key], (int, str)) for key in keys if key != "bbox"):
            faults.append(
                Fault(path, f"{what} number {number} of the list lacks {', '.join(lacking) or 'a usable id'}")
            )
        elif entry["id"] in found:
            repetitions[entry["id"]] += 1
        else:
            found[entry["id"]] = entry
    for identity, count in repetitions.items():
        faults.append(Fault(path, f"the {what} id {identity} occurs {count + 1} times; ids must differ"))
    return found


def _check_records(records: Records, folder: Path, tally: Tally, workers: int, looked_at: set[Path]) -> Iterator[Fault]:
    yield from repeated_file_names(records)
    first = folder not in looked_at
    files = {image_id: folder / record["file_name"] for image_id, record in records.images.items()}
    yield from image_file_faults(records, files, tally, workers, looked_at)
    unknown = len({folder / name for name in files_below(folder)} - set(files.values()))
    if unknown and first:
        tally.notes.append(f"{folder}: {unknown:,} files are not in {records.path.name}")
    yield from _category_faults(records)
    for annotation in records.annotations:
        tally.counts["annotations"] += 1
        yield from _annotation_faults(records, annotation, tally)


def _category_faults(records: Records) -> Iterator[Fault]:
    for name in repeated(record["name"] for record in records.categories.values()):
        yield Fault(records.path, f"two categories are called {name!r}; names must differ")
    if not records.categories:
        yield Fault(records.path, "has no category")


def _annotation_faults(records: Records, annotation: Record, tally: Tally) -> Iterator[Fault]:
    yield from reference_faults(records, annotation)
    name, size = annotation_name(annotation), records.sizes.get(annotation["image_id"])
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield Fault(records.path, f"{name} has iscrowd {annotation['iscrowd']!r}; it must be 0 or 1")
    if not is_numbers([annotation.get("area")]) or annotation["area"] < 0:
        yield Fault(records.path, f"{name} has the area {annotation.get('area')!r}; COCO's AP needs it, in pixels")
    segmentation = annotation.get("segmentation")
    if segmentation is not None:
        fault = _rle_fault(segmentation, size) if isinstance(segmentation, dict) else polygon_fault(segmentation, size)
        if fault:
            yield Fault(records.path, f"{name} {fault}")
    if "keypoints" in annotation:
        tally.counts["annotations with keypoints"] += 1
        category = records.categories.get(annotation["category_id"], {})
        yield from (Fault(records.path, f"{name} {what}") for what in _keypoint_faults(annotation, category, size))


def _rle_fault(rle: Mapping[str, Any], size: Size | None) -> str | None:
    """Say what is wrong with a run-length-encoded mask, ``size`` (height, width) and ``counts``, if anything is.

    ``counts`` as text is compressed by pycocotools, and only that it is text is looked at.
    """
    found = rle.get("size")
    if not is_numbers(found) or len(found) != 2:
        return f"has an RLE of size {found!r}; it must be [height, width]"
    if size is not None and tuple(found) != size[::-1]:
        return f"has an RLE of {found[1]} x {found[0]} pixels, but its image is {size[0]} x {size[1]}"
    counts = rle.get("counts")
    if isinstance(counts, str) and counts:
        return None
    if not is_numbers(counts) or min(counts) < 0:
        return "has an RLE without counts"
    if sum(counts) != found[0] * found[1]:
        return f"has an RLE whose counts make {sum(counts)} pixels instead of {found[0]} x {found[1]}"
    return None


def _keypoint_faults(annotation: Record, category: Record, size: Size | None) -> Iterator[str]:
    keypoints = annotation["keypoints"]
    names = category.get("keypoints", [None] * 17)  # COCO's persons have 17
    if not is_numbers(keypoints) or len(keypoints) != 3 * len(names):
        yield f"must have {3 * len(names)} numbers as keypoints: x, y and visibility of each"
        return
    triples = list(zip(*[iter(keypoints)] * 3, strict=True))
    if any(visibility not in (0, 1, 2) for _, _, visibility in triples):
        yield "has a keypoint whose visibility is not 0, 1 or 2"
    labelled = [(x, y) for x, y, visibility in triples if visibility > 0]
    if annotation.get("num_keypoints", len(labelled)) != len(labelled):
        yield f"has num_keypoints {annotation['num_keypoints']}, but {len(labelled)} keypoints of visibility above 0"
    if labelled and size is not None and not lies_inside(*zip(*labelled, strict=True), size):
        yield f"has a keypoint that is not inside the image, which is {size[0]} x {size[1]}"
