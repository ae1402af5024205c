"""The command ``mocodet prepare-data images``, which checks every photograph before training."""

import argparse
import json
import os
from collections import Counter
from pathlib import Path

import yaml

from mocodet.common.checks.photographs import look_at_all, unwanted
from mocodet.common.cores import available_cores
from mocodet.common.files import atomic_open
from mocodet.common.formats.boxes import read_boxes
from mocodet.common.text import on_one_line

from .folders import passed_over
from .listing_cache import list_images

ORDER = ("damaged", "leak", "tiny", "flat", "duplicate")


def check_pool(args: argparse.Namespace) -> int:
    """Print problems with the photographs in a folder, and write a list for ``DATA.EXCLUDE``.

    Args:
        args: arguments parsed by `mocodet.common.commands.prepare_data`.

    Returns:
        the exit status, which is 1 if there are problems and no list was requested.

    Raises:
        FileNotFoundError: the folder does not exist, or contains no images.
        ValueError: ``--leaks`` does not specify images.
    """
    workers = available_cores() if args.workers is None else args.workers
    test = list(look_at_all(_test_paths(args.leaks), workers, args.max_pixels)) if args.leaks else []
    paths, others = _files(args.root)
    counts: Counter[str] = Counter()
    lines = []
    for path, what, reason in unwanted(look_at_all(paths, workers, args.max_pixels), args.min_side, test):
        counts[what] += 1
        print(on_one_line(f"{what}: {path} {reason}"), flush=True)
        lines.append(json.dumps({"file": os.path.relpath(path, args.root), "what": what, "reason": reason}))
    if args.output:
        with atomic_open(args.output, "w", encoding="utf-8") as handle:
            handle.writelines(f"{line}\n" for line in lines)
    for photograph in test:
        if photograph.reason:
            print(on_one_line(f"note: {photograph.path} {photograph.reason}, and was not compared"))
    if others:
        print(f"note: {passed_over(others, args.root)}")
    found = ", ".join(f"{counts[what]:,} {what}" for what in ORDER if counts[what]) or "no problems found"
    written = f"; set DATA.EXCLUDE {args.output}" if args.output and lines else ""
    against = f", compared with {len(test):,} images of {args.leaks}" if test else ""
    print(f"{args.root}: {len(paths):,} images{against}: {found}{written}")
    return int(bool(lines) and not args.output)


def _files(root: str) -> tuple[list[str], int]:
    """Return the paths of all images below a folder, and the number of other files."""
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root} is not a folder; expected a folder of images")
    listings = list_images(root)
    paths = sorted(path for listing in listings for path in listing.paths(root))
    if not paths:
        raise FileNotFoundError(
            f"{root} contains no images; it was searched recursively for .jpg, .png and other formats that Pillow"
            " supports"
        )
    return paths, sum(listing.others for listing in listings)


def _test_paths(given: str) -> list[str]:
    """Return the images specified by ``--leaks``, which is a folder or an entry as in ``MOCO.DATASETS``."""
    if not given.lstrip().startswith("{"):
        return _files(given)[0]
    try:
        entry = yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise ValueError(
            f"--leaks {given} is neither a folder nor an entry as in MOCO.DATASETS ({' '.join(str(error).split())})"
        ) from error
    return [str(image.path) for image in read_boxes(entry, "--leaks")]
