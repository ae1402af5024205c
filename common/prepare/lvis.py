"""LVIS v0.5 (lvisdataset.org): annotations of COCO 2017's images."""

from collections import defaultdict
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
    polygon_fault,
    read_records,
    reference_faults,
    repeated_file_names,
)
from .faults import Fault, Tally, count_fault
from .steps import Need, Plan

# The addresses are those of v0.5 on lvisdataset.org; no checksum is published. Sizes are rough.
ARCHIVES = tuple(
    Archive(
        name=f"lvis_v0.5_{split}.json.zip",
        part=split,
        place=inside((f"lvis_v0.5_{split}.json", f"lvis/lvis_v0.5_{split}.json")),
        targets=(f"lvis/lvis_v0.5_{split}.json",),
        size=size,
        unpacked=unpacked,
        url=f"https://dl.fbaipublicfiles.com/LVIS/lvis_v0.5_{split}.json.zip",
        exact=False,
    )
    for split, size, unpacked in (("train", 350_000_000, 1_000_000_000), ("val", 30_000_000, 80_000_000))
)

# The paper and the lvis-api's page round the images of train to 57 thousand; those of val and the categories are exact.
IMAGE_COUNTS = {"train": None, "val": 5_000}
CATEGORY_COUNT = 1_230
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent


def plan(root: Path) -> Plan:
    """Say how LVIS v0.5 comes below ``root``."""
    needs = [
        Need(archive.part, root / "coco" / f"{archive.part}2017", "LVIS annotates COCO's images: prepare coco first")
        for archive in ARCHIVES
    ]
    return Plan(ARCHIVES, needs=needs)


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of LVIS v0.5 below ``root`` and of the images that it names; arguments as in `voc.check`."""
    for split, number in IMAGE_COUNTS.items():
        path = root / "lvis" / f"lvis_v0.5_{split}.json"
        if not path.is_file():
            yield Fault(path, "is missing; prepare lvis")
            continue
        records, faults = read_records(path)
        yield from faults
        if records is None:
            continue
        yield from _check_records(records, root / "coco", tally, workers)
        if not any_size:
            yield from count_fault(path, "categories", len(records.categories), CATEGORY_COUNT)
            if number is not None:
                yield from count_fault(path, "images", len(records.images), number)


def _check_records(records: Records, images: Path, tally: Tally, workers: int) -> Iterator[Fault]:
    files, faults = _files(records, images)
    yield from faults
    yield from repeated_file_names(records)
    yield from image_file_faults(records, files, tally, workers, set())
    for identity, category in records.categories.items():
        yield from _category_faults(records, identity, category)
    present: defaultdict[Any, set] = defaultdict(set)
    for annotation in records.annotations:
        tally.counts["annotations"] += 1
        yield from reference_faults(records, annotation)
        present[annotation["image_id"]].add(annotation["category_id"])
        # LVIS has no crowds, so every mask is of polygons, and detectron2's reader wants one.
        if fault := polygon_fault(annotation.get("segmentation"), records.sizes.get(annotation["image_id"])):
            yield Fault(records.path, f"{annotation_name(annotation)} {fault}")
    for identity, image in records.images.items():
        yield from _federation_faults(records, identity, image, present[identity])


def _files(records: Records, images: Path) -> tuple[dict[Any, Path], list[Fault]]:
    """Find each image as detectron2 does: by the last two parts of ``coco_url``, ``train2017/000000155379.jpg``."""
    files, faults = {}, []
    for identity, image in records.images.items():
        parts = str(image.get("coco_url", "")).split("/")[-2:]
        if len(parts) == 2:
            files[identity] = images / parts[0] / parts[1]
        else:
            faults.append(Fault(records.path, f"image {identity} lacks coco_url, by which detectron2 finds its file"))
    return files, faults


def _category_faults(records: Records, identity: object, category: Record) -> Iterator[Fault]:
    name = f"category {identity} ({category['name']})"
    if category.get("frequency") not in FREQUENCIES:
        yield Fault(records.path, f"{name} has the frequency {brief(category.get('frequency'))}; it must be r, c or f")
    if not isinstance(category.get("image_count"), int):
        yield Fault(records.path, f"{name} lacks image_count, by which rare images are repeated and AP is divided")


def _federation_faults(records: Records, identity: object, image: Mapping[str, Any], present: set) -> Iterator[Fault]:
    """Yield the faults of what an image says of the categories: which are surely absent, which annotated in part.

    Gupta et al., "LVIS", CVPR 2019.
    """
    name = f"image {identity}"
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        ids = image.get(key)
        if not isinstance(ids, list):
            yield Fault(records.path, f"{name} lacks the list {key}, which LVIS's AP needs")
        elif unknown := [
            category for category in ids if type(category) not in (int, str) or category not in records.categories
        ]:
            yield Fault(records.path, f"{name} has {brief(unknown[0])} in {key}, which is no category of the file")
        elif key == "neg_category_ids" and (both := [category for category in ids if category in present]):
            yield Fault(records.path, f"{name} says that category {both[0]} is not in it, but has an annotation of it")
