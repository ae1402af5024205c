"""The files of LVIS v0.5 (lvisdataset.org): annotations of COCO 2017's images."""

from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from .coco_json import Record, Records, annotation_faults, image_file_faults, polygon_fault, read_records
from .findings import Fault, Tally, count_faults
from .images import Size

# The paper and the lvis-api's page round the images of train to 57 thousand; those of val and the categories are exact.
IMAGE_COUNTS = {"train": None, "val": 5_000}
FILES = {split: f"lvis_v0.5_{split}.json" for split in IMAGE_COUNTS}
CATEGORY_COUNT = 1_230
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of LVIS v0.5 below ``root`` and of the images that it names; arguments as in `voc.check`."""
    for split, number in IMAGE_COUNTS.items():
        path = root / "lvis" / FILES[split]
        if not path.is_file():
            yield Fault(path, "is missing; prepare lvis")
        elif records := (yield from read_records(path)):
            files = yield from _files(records, root / "coco")
            yield from image_file_faults(records, files, tally, workers)
            yield from (Fault(path, what) for what in _category_faults(records))
            yield from annotation_faults(records, tally, _mask_faults)
            yield from (Fault(path, what) for what in _federation_faults(records))
            if not any_size:
                yield from count_faults(path, "categories", len(records.categories), CATEGORY_COUNT)
                yield from count_faults(path, "images", len(records.images), number)


def _files(records: Records, images: Path) -> Generator[Fault, None, dict[Any, Path]]:
    """Find each image as detectron2 does: by the last two parts of ``coco_url``, ``train2017/000000155379.jpg``."""
    files = {}
    for identity, image in records.images.items():
        parts = str(image.get("coco_url", "")).split("/")[-2:]
        if len(parts) == 2:
            files[identity] = images.joinpath(*parts)
        else:
            yield Fault(records.path, f"image {identity} lacks coco_url, by which detectron2 finds its file")
    return files


def _category_faults(records: Records) -> Iterator[str]:
    for identity, category in records.categories.items():
        name = f"category {identity} ({category['name']})"
        if category.get("frequency") not in FREQUENCIES:
            yield f"{name} has the frequency {brief(category.get('frequency'))}; it must be r, c or f"
        if not isinstance(category.get("image_count"), int):
            yield f"{name} lacks image_count, by which rare images are repeated and AP is divided"


def _mask_faults(annotation: Record, size: Size | None) -> Iterator[str | None]:
    # LVIS has no crowds, so every mask is of polygons, and detectron2's reader wants one.
    yield polygon_fault(annotation.get("segmentation"), size)


def _federation_faults(records: Records) -> Iterator[str]:
    """Say what is wrong with what images say of categories: which are surely absent, which are annotated in part.

    Gupta et al., "LVIS", CVPR 2019.
    """
    present: defaultdict[Any, set] = defaultdict(set)
    for annotation in records.annotations:
        present[annotation["image_id"]].add(annotation["category_id"])
    for identity, image in records.images.items():
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = image.get(key)
            if not isinstance(ids, list):
                yield f"image {identity} lacks the list {key}, which LVIS's AP needs"
            elif unknown := [
                entry for entry in ids if type(entry) not in (int, str) or entry not in records.categories
            ]:
                yield f"image {identity} has {brief(unknown[0])} in {key}, which is no category of the file"
            elif key == "neg_category_ids" and (both := [entry for entry in ids if entry in present[identity]]):
                yield f"image {identity} says that category {both[0]} is not in it, but has an annotation of it"
