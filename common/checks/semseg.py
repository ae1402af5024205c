"""Users' label images for semantic segmentation, and their images."""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mocodet.common.formats.findings import Finding
from mocodet.common.formats.labels import Meaning, count_label_image, find_labelled_images, join_counts, judge_labels

from .findings import Fault, Tally
from .images import ImageJob, check_images, in_processes


def check(args: argparse.Namespace, tally: Tally, *, workers: int = 0) -> Iterator[Finding]:
    """Yield the findings in the data set that the command line describes; arguments as in `check_label_images`.

    Raises:
        ValueError: values and classes do not match.
    """
    meaning = Meaning(tuple(args.classes), args.ignore, tuple(args.values), args.max_ignored)
    meaning.check()
    return check_label_images(
        args.images, args.labels, meaning, tally, split=args.split, learned=not args.test, workers=workers
    )


def check_label_images(
    images: Path,
    labels: Path,
    meaning: Meaning,
    tally: Tally,
    *,
    split: Path | None = None,
    learned: bool = True,
    workers: int = 0,
) -> Iterator[Finding]:
    """Yield the findings in a folder of images and a folder of their labels.

    Args:
        images: the folder of images.
        labels: the folder of label images with the same names.
        meaning: the meaning of their values.
        tally: counts what was checked.
        split: list of images; None: all in the folder.
        learned: the images are for training; for evaluation a class may be absent.
        workers: processes that decode images; 0: this process does.
    """
    absent = [folder for folder in (images, labels) if not folder.is_dir()]
    yield from (Fault(folder, "is not a folder; name the one that holds the files") for folder in absent)
    if split is not None and not split.is_file():
        absent.append(split)
        yield Fault(split, "is missing; name the list of images, or leave it out for all images")
    if absent:
        return
    found, findings = find_labelled_images(images, labels, split)
    yield from findings
    yield from check_images([ImageJob(pair.image) for pair in found], tally, workers)
    counts = join_counts(in_processes(partial(count_label_image, meaning=meaning), found, workers, "label images"))
    tally.counts["label images"] += len(found)
    pictures = {pair.image for pair in found}  # `check_images` has reported their faults
    yield from (one for one in judge_labels(counts, labels, meaning, learned=learned) if one.file not in pictures)
    if others := len({path.stem for path in labels.glob("*.png")} - {pair.name for pair in found}) if not split else 0:
        tally.notes.append(f"{labels}: {others:,} label images have no image")
