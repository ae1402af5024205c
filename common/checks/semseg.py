"""Checks of users' label images for semantic segmentation and of the images that they label."""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mocodet.common.formats.findings import Finding
from mocodet.common.formats.labels import Meaning, count_label_image, find_labelled_images, join_counts, judge_labels

from .findings import Fault, Tally
from .images import ImageJob, check_images, in_processes


def check(args: argparse.Namespace, tally: Tally, *, workers: int = 0) -> Iterator[Finding]:
    """Yield the findings in the data set specified on the command line; see `check_label_images` for the arguments.

    Raises:
        ValueError: the values and the classes do not match.
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
    """Yield the findings in a folder of images and a folder of their label images.

    Args:
        images: folder of images.
        labels: folder of label images with the same names.
        meaning: meaning of the values in the label images.
        tally: counts what was checked.
        split: list of images; None selects all images in the folder.
        learned: whether the images are for training; evaluation allows missing classes.
        workers: number of processes that decode images; 0 decodes them in the calling process.
    """
    absent = [folder for folder in (images, labels) if not folder.is_dir()]
    yield from (Fault(folder, "is not a folder; specify the folder that contains the files") for folder in absent)
    if split is not None and not split.is_file():
        absent.append(split)
        yield Fault(split, "is missing; specify a list of images, or omit it to use all images")
    if absent:
        return
    found, findings = find_labelled_images(images, labels, split)
    yield from findings
    yield from check_images([ImageJob(pair.image) for pair in found], tally, workers)
    counts = join_counts(in_processes(partial(count_label_image, meaning=meaning), found, workers, "label images"))
    tally.counts["label images"] += len(found)
    pictures = {pair.image for pair in found}  # `check_images` has already reported their errors
    yield from (one for one in judge_labels(counts, labels, meaning, learned=learned) if one.file not in pictures)
    if others := len({path.stem for path in labels.glob("*.png")} - {pair.name for pair in found}) if not split else 0:
        tally.notes.append(f"{labels}: {others:,} label images have no matching image")
