"""The command ``mocodet prepare-data``: prepares a data set where detectron2 expects it, or checks a data set."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from mocodet.common.checks import coco_json, voc
from mocodet.common.checks.findings import Tally
from mocodet.common.commands.prepare_data import OWN, PHOTOGRAPHS
from mocodet.common.cores import available_cores
from mocodet.common.errors import errors_in_one_line
from mocodet.common.formats.findings import Finding

from .datasets import plan_of
from .steps import only_parts, prepare


def main(args: argparse.Namespace) -> None:
    """Run the command; a check that finds an error exits with status 1.

    Raises:
        SystemExit: the preparation failed, or the data set contains errors.
    """
    with errors_in_one_line(ImportError):
        if args.dataset == PHOTOGRAPHS:
            sys.exit(import_module("mocodet.pretrain.data.pool").check_pool(args))
        if args.dataset in OWN:
            sys.exit(_check(args, Path()))
        root = (args.root or Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))).expanduser()
        if args.verify:
            sys.exit(_check(args, root))
        plan = only_parts(plan_of(args.dataset, root), args.only)
        prepare(plan, root, args.archives or root / "archives", dry_run=args.dry_run, again=args.again)


def _check(args: argparse.Namespace, root: Path) -> int:
    """Print each finding immediately, then notes and a summary; return the exit status, 1 if there are errors.

    ``root`` is the folder that contains the data sets or, with ``--classes``, the user's own data set.
    """
    tally = Tally(max_pixels=args.max_pixels)
    faults: Counter[Path] = Counter()
    repaired = 0
    for finding in _findings(args, root, tally):
        if finding.severity == "error":
            print(finding, flush=True)
            faults[finding.file] += 1
        else:
            print(f"{finding.severity}: {finding}", flush=True)
            repaired += finding.count * (finding.severity == "repaired")
    for note in tally.notes:
        print(f"note: {note}")
    looked_at = ", ".join(f"{count:,} {what}" for what, count in tally.counts.items() if count) or "nothing"
    found = f"{faults.total():,} errors in {len(faults):,} files" if faults else "no errors"
    found += f"; {repaired:,} repairs, which a run also makes" if repaired else ""
    print(f"{args.dataset}: {found}; checked {looked_at}")
    return 1 if faults else 0


def _findings(args: argparse.Namespace, root: Path, tally: Tally) -> Iterator[Finding]:
    workers = available_cores() if args.workers is None else args.workers
    if args.dataset in OWN:
        return import_module(f"mocodet.common.checks.{args.dataset}").check(args, tally, workers=workers)
    if getattr(args, "classes", None):
        return voc.check_layout(root, args.classes, tally, lists=args.lists, workers=workers)
    if getattr(args, "json", None):
        return coco_json.check_json(args.json, args.images, tally, workers=workers)
    module = import_module(f"mocodet.common.checks.{args.dataset}")
    return module.check(root, tally, any_size=args.any_size, workers=workers)
