"""The command ``mocodet prepare-data``: archives to where detectron2 looks, or a check of what is there."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mocodet.common.errors import errors_in_one_line

from . import cityscapes, coco, imagenet, lvis, voc
from .faults import Fault, Tally
from .steps import only_parts, prepare

DATASETS = {"voc": voc, "coco": coco, "lvis": lvis, "cityscapes": cityscapes, "imagenet": imagenet}


def main(args: argparse.Namespace) -> None:
    """Do what the command line asks for; exit status 1 if a check finds a fault.

    Raises:
        SystemExit: what was asked could not be done, or the data have faults.
    """
    with errors_in_one_line(ImportError):
        if args.check:
            sys.exit(_check(args))
        root = _root(args)
        plan = only_parts(DATASETS[args.dataset].plan(root), args.only)
        prepare(plan, root, args.archives or root / "archives", dry_run=args.dry_run, again=args.again)


def _root(args: argparse.Namespace) -> Path:
    return (args.root or Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))).expanduser()


def _check(args: argparse.Namespace) -> int:
    """Print every fault as it is found, then the notes and the summary; return the exit status."""
    tally = Tally()
    files: set[Path] = set()
    number = 0
    for fault in _faults(args, tally):
        print(fault, flush=True)
        files.add(fault.file)
        number += 1
    for note in tally.notes:
        print(f"note: {note}")
    looked_at = ", ".join(f"{count:,} {what}" for what, count in tally.counts.items() if count) or "nothing"
    found = f"faults: {number:,}, in {len(files):,} files" if number else "no fault"
    print(f"{args.dataset}: {found}; looked at {looked_at}")
    return 1 if number else 0


def _faults(args: argparse.Namespace, tally: Tally) -> Iterator[Fault]:
    workers = os.cpu_count() or 1 if args.workers is None else args.workers
    if getattr(args, "classes", None):
        return voc.check_layout(_root(args), args.classes, tally, workers=workers)
    if getattr(args, "json", None):
        return coco.check_json(args.json, args.images, tally, workers=workers)
    return DATASETS[args.dataset].check(_root(args), tally, any_size=args.any_size, workers=workers)
