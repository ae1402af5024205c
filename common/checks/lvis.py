"""Checks of LVIS v0.5 (lvisdataset.org), annotations for the images of COCO 2017."""

from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from mocodet.common.formats.coco import Coco, read_coco
from mocodet.common.formats.coco_objects import name_of
from mocodet.common.formats.findings import Finding

from .coco_json import count_annotations, image_file_faults
from .findings import Fault, Tally, count_faults

# The paper and the lvis-api page round the number of train images to 57 thousand; the other numbers are exact.
IMAGE_COUNTS = {"train": None, "val": 5_000}
FILES = {split: f"lvis_v0.5_{split}.json" for split in IMAGE_COUNTS}
CATEGORY_COUNT = 1_230
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Finding]:
    """Yield the findings in LVIS v0.5 below ``root`` and in its images; see `voc.check` for the arguments."""
    for split, number in IMAGE_COUNTS.items():
        path = root / "lvis" / FILES[split]
        if not path.is_file():
            yield Fault(path, "is missing; run mocodet prepare-data lvis")
            continue
        coco = read_coco(path, lvis=True)
        yield from coco.findings
        files = yield from _files(coco, root / "coco")
        yield from image_file_faults(coco, files, tally, workers)
        yield from (Fault(path, what) for what in (*_category_faults(coco), *_mask_faults(coco)))
        yield from (Fault(path, what) for what in _federation_faults(coco))
        count_annotations(coco, tally)
        if not any_size and coco.categories:
            yield from count_faults(path, "categories", len(coco.categories), CATEGORY_COUNT)
            yield from count_faults(path, "images", len(coco.images), number)


def _files(coco: Coco, images: Path) -> Generator[Fault, None, dict[Any, Path]]:
    """Find each image as detectron2 does, by the last two parts of ``coco_url``: ``train2017/000000155379.jpg``."""
    files = {}
    for image in coco.images:
        parts = str(image.get("coco_url", "")).split("/")[-2:]
        if len(parts) == 2:
            files[image["id"]] = images.joinpath(*parts)
        else:
            yield Fault(coco.path, f"image {image['id']} lacks coco_url, which detectron2 uses to find the file")
    return files


def _category_faults(coco: Coco) -> Iterator[str]:
    for category in coco.categories:
        name = f"category {category['id']} ({category['name']})"
        if category.get("frequency") not in FREQUENCIES:
            yield f"{name} has the frequency {brief(category.get('frequency'))}; it must be r, c or f"
        if not isinstance(category.get("image_count"), int):
            yield f"{name} lacks image_count, which is required to repeat rare images and to group AP"


def _mask_faults(coco: Coco) -> Iterator[str]:
    # LVIS has no crowds, so every mask consists of polygons, and detectron2's reader requires at least one.
    for annotation in coco.annotations:
        if not isinstance(annotation.get("segmentation"), list):
            yield f"{name_of(annotation)} has a segmentation without a polygon"


def _federation_faults(coco: Coco) -> Iterator[str]:
    """Yield the errors in each image's lists of categories that are verified to be absent or only partly annotated.

    See Gupta et al., "LVIS", CVPR 2019.
    """
    known = {category["id"] for category in coco.categories}
    present: defaultdict[Any, set] = defaultdict(set)
    for annotation in coco.annotations:
        present[annotation["image_id"]].add(annotation["category_id"])
    for image in coco.images:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = image.get(key)
            if not isinstance(ids, list):
                yield f"image {image['id']} lacks the list {key}, which LVIS's AP requires"
            elif unknown := [entry for entry in ids if type(entry) not in (int, str) or entry not in known]:
                yield f"image {image['id']} has {brief(unknown[0])} in {key}, which is not a category in the file"
            elif key == "neg_category_ids" and (both := [entry for entry in ids if entry in present[image["id"]]]):
                yield f"image {image['id']} lists category {both[0]} as absent, but has an annotation of this category"
