"""The files of COCO 2017 (cocodataset.org): boxes, masks and keypoints."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from .coco_json import Records, annotation_name, instances_faults, is_numbers, read_records
from .findings import Fault, Tally, count_faults

# Their boxes have no height in the published files: cocodataset/cocoapi issue 355. detectron2 drops such boxes.
KNOWN_EMPTY_BOXES = frozenset({918, 2_206_849})
IMAGE_COUNTS = {"train2017": 118_287, "val2017": 5_000}
CATEGORY_COUNTS = {"instances": 80, "person_keypoints": 1}
ANNOTATIONS = {
    f"coco/annotations/{kind}_{split}.json": (split, kind) for split, kind in product(IMAGE_COUNTS, CATEGORY_COUNTS)
}


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of the instances and keypoints of COCO 2017 below ``root``; arguments as in `voc.check`."""
    for name, (split, kind) in ANNOTATIONS.items():
        path = root / name
        if not path.is_file():
            yield Fault(path, "is missing; prepare with --only annotations --again")
        elif records := (yield from read_records(path)):
            _leave_out_known(records, tally)
            yield from instances_faults(records, root / "coco" / split, tally, workers)
            if not any_size:
                yield from count_faults(path, "images", len(records.images), IMAGE_COUNTS[split])
                yield from count_faults(path, "categories", len(records.categories), CATEGORY_COUNTS[kind])


def _leave_out_known(records: Records, tally: Tally) -> None:
    """Take the annotations out that are known to have an empty box as published, and note them."""
    for annotation in [entry for entry in records.annotations if entry["id"] in KNOWN_EMPTY_BOXES]:
        if is_numbers(annotation["bbox"], 4) and annotation["bbox"][3] == 0:
            records.annotations.remove(annotation)
            tally.notes.append(
                f"{records.path}: {annotation_name(annotation)} has an empty box, as published; detectron2 drops it"
            )
