"""What ``mocodet prepare-data --check`` prints."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from . import coco_json, voc
from .findings import Fault, Tally


def check(args: argparse.Namespace, root: Path) -> int:
    """Print every fault as it is found, then the notes and the summary; return the exit status, 1 if there is a fault.

    Args:
        args: the command line; which data set, or which one of the user's own.
        root: the folder of the data sets, or the data set itself if ``--classes`` says that it is one's own.
    """
    tally = Tally()
    faults: Counter[Path] = Counter()
    for fault in _faults(args, root, tally):
        print(fault, flush=True)
        faults[fault.file] += 1
    for note in tally.notes:
        print(f"note: {note}")
    looked_at = ", ".join(f"{count:,} {what}" for what, count in tally.counts.items() if count) or "nothing"
    found = f"faults: {faults.total():,}, in {len(faults):,} files" if faults else "no fault"
    print(f"{args.dataset}: {found}; looked at {looked_at}")
    return 1 if faults else 0


def _faults(args: argparse.Namespace, root: Path, tally: Tally) -> Iterator[Fault]:
    workers = os.cpu_count() or 1 if args.workers is None else args.workers
    if getattr(args, "classes", None):
        return voc.check_layout(root, args.classes, tally, workers=workers)
    if getattr(args, "json", None):
        return coco_json.check_json(args.json, args.images, tally, workers=workers)
    return import_module(f".{args.dataset}", __package__).check(root, tally, any_size=args.any_size, workers=workers)
