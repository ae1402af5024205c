"""Checks of users' data sets in YOLO format: images and label files (docs.ultralytics.com/datasets)."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from mocodet.common.formats.findings import Finding
from mocodet.common.formats.yolo_folder import folder_of, open_yolo, read_yolo

from .coco_json import count_annotations, image_file_faults
from .findings import Fault, Tally


def check(args: argparse.Namespace, tally: Tally, *, workers: int = 0) -> Iterator[Finding]:
    """Yield the findings in the data set specified on the command line; see `check_yolo` for the arguments."""
    return check_yolo(args.root, tally, splits=args.split, classes=args.classes, workers=workers)


def check_yolo(
    path: Path, tally: Tally, *, splits: Sequence[str] = (), classes: Sequence[str] = (), workers: int = 0
) -> Iterator[Finding]:
    """Yield the findings in a data set.

    Args:
        path: a ``data.yaml`` file or a folder.
        tally: counts what was checked.
        splits: splits to check; empty selects all.
        classes: see `read_yolo`.
        workers: number of processes that decode images; 0 decodes them in the calling process.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ValueError: ``classes`` contains a name that matches no class.
    """
    told = set()
    for split in splits or open_yolo(path).splits or ("",):
        coco = read_yolo(path, split, classes)
        yield from (finding for finding in coco.findings if finding not in told)
        told.update(coco.findings)
        files = {image["id"]: folder_of(coco.path) / image["file_name"] for image in coco.images}
        yield from image_file_faults(coco, files, tally, workers)
        count_annotations(coco, tally)
        if not coco.annotations and all(finding.severity != "error" for finding in coco.findings):
            yield Fault(coco.path, f"has no objects in {split or 'its images'} for training and evaluation; label some")
