"""Checks of ImageNet, ILSVRC 2012 (image-net.org), in class folders."""

import re
from collections.abc import Iterator
from pathlib import Path

from mocodet.common.formats.findings import Finding

from .findings import Fault, Tally, count_faults
from .images import ImageJob, check_images, files_below

CLASSES = 1_000
IMAGE_COUNTS = {"train": 1_281_167, "val": 50_000}  # Russakovsky et al., IJCV 2015
WNID = re.compile(r"n\d{8}")


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Finding]:
    """Yield the errors in ``imagenet/train`` and ``imagenet/val`` below ``root``; see `voc.check` for the arguments."""
    classes: dict[str, set[str]] = {}
    for split, number in IMAGE_COUNTS.items():
        folder = root / "imagenet" / split
        if not folder.is_dir():
            yield Fault(folder, "is missing; run mocodet prepare-data imagenet")
            continue
        below = sorted(folder.iterdir())
        for path in below:
            if not (path.is_dir() and WNID.fullmatch(path.name)):
                yield Fault(path, "is not a class folder; class folders are named after WordNet ids, such as n01440764")
        folders = [path for path in below if path.is_dir()]
        classes[split] = {path.name for path in folders if WNID.fullmatch(path.name)}
        jobs = []
        for path in folders:
            images = sorted(files_below(path))
            jobs += [ImageJob(path / name) for name in images]
            if not images:
                yield Fault(path, "is a class folder without images; run prepare-data with --again")
        yield from check_images(jobs, tally, workers)
        if not any_size:
            yield from count_faults(folder, "class folders", len(folders), CLASSES)
            yield from count_faults(folder, "images", len(jobs), number)
    if len(classes) == len(IMAGE_COUNTS):
        for name in sorted(classes["train"] ^ classes["val"]):
            there, lacking = ("train", "val") if name in classes["train"] else ("val", "train")
            yield Fault(root / "imagenet" / lacking / name, f"is missing, but {there} contains this class")
