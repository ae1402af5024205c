"""COCO 2017 (cocodataset.org): boxes, masks, keypoints; and any JSON file in its format."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from .archives import Archive, inside
from .coco_json import (
    Record,
    Records,
    annotation_name,
    image_file_faults,
    is_numbers,
    polygon_fault,
    read_records,
    reference_faults,
    repeated_file_names,
)
from .faults import (
    Fault,
    Size,
    Tally,
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

# Their boxes have no height in the published files: cocodataset/cocoapi issue 355. detectron2 drops such boxes.
KNOWN_EMPTY_BOXES = frozenset({918, 2_206_849})
IMAGE_COUNTS = {"train2017": 118_287, "val2017": 5_000}
CATEGORY_COUNTS = {"instances": 80, "person_keypoints": 1}


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
                yield Fault(path, "is missing; prepare with --only annotations --again")
                continue
            records, faults = read_records(path)
            yield from faults
            if records is None:
                continue
            _leave_out_known(records, tally)
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


def _leave_out_known(records: Records, tally: Tally) -> None:
    """Take the annotations out that are known to have an empty box as published, and note them."""
    known = [
        annotation
        for annotation in records.annotations
        if annotation["id"] in KNOWN_EMPTY_BOXES
        and is_numbers(annotation["bbox"])
        and len(annotation["bbox"]) == 4
        and annotation["bbox"][3] == 0
    ]
    for annotation in known:
        records.annotations.remove(annotation)
        tally.notes.append(
            f"{records.path}: {annotation_name(annotation)} has an empty box, as published; detectron2 drops it"
        )


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
    for identity, category in records.categories.items():
        if not isinstance(category.get("keypoints", []), list):
            what = f"has the keypoints {brief(category['keypoints'])}; it must be the list of their names"
            yield Fault(records.path, f"category {identity} ({category['name']}) {what}")
    if not records.categories:
        yield Fault(records.path, "has no category")


def _annotation_faults(records: Records, annotation: Record, tally: Tally) -> Iterator[Fault]:
    yield from reference_faults(records, annotation)
    name, size = annotation_name(annotation), records.sizes.get(annotation["image_id"])
    if annotation.get("iscrowd") not in (0, 1):  # pycocotools' COCOeval fails where there is none
        yield Fault(records.path, f"{name} has iscrowd {brief(annotation.get('iscrowd'))}; it must be 0 or 1")
    if not is_numbers([annotation.get("area")]) or annotation["area"] < 0:
        yield Fault(records.path, f"{name} has the area {brief(annotation.get('area'))}; COCO's AP needs it, in pixels")
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
        return f"has an RLE of size {brief(found)}; it must be [height, width]"
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
    names = category.get("keypoints")
    if not isinstance(names, list):
        names = [None] * 17  # COCO's persons have 17
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
