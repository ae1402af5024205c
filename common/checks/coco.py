"""Checks of COCO 2017 (cocodataset.org): boxes, masks and keypoints."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from mocodet.common.formats.coco import read_coco
from mocodet.common.formats.findings import Finding

from .coco_json import instances_findings
from .findings import Fault, Tally, count_faults

IMAGE_COUNTS = {"train2017": 118_287, "val2017": 5_000}
CATEGORY_COUNTS = {"instances": 80, "person_keypoints": 1}
ANNOTATIONS = {
    f"coco/annotations/{kind}_{split}.json": (split, kind) for split, kind in product(IMAGE_COUNTS, CATEGORY_COUNTS)
}


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Finding]:
    """Yield the findings in COCO 2017's instances and keypoints below ``root``; see `voc.check` for the arguments."""
    for name, (split, kind) in ANNOTATIONS.items():
        path = root / name
        if not path.is_file():
            yield Fault(path, "is missing; run prepare-data with --only annotations --again")
            continue
        coco = read_coco(path)
        yield from instances_findings(coco, root / "coco" / split, tally, workers)
        if not any_size and coco.categories:
            yield from count_faults(path, "images", len(coco.images), IMAGE_COUNTS[split])
            yield from count_faults(path, "categories", len(coco.categories), CATEGORY_COUNTS[kind])
