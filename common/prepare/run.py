"""The command ``mocodet prepare-data``: archives to where detectron2 looks, or a check of what is there."""

import argparse
import os
import sys
from pathlib import Path

from mocodet.common.checks.run import check
from mocodet.common.errors import errors_in_one_line

from .datasets import plan_of
from .steps import only_parts, prepare


def main(args: argparse.Namespace) -> None:
    """Do what the command line asks for; exit status 1 if a check finds a fault.

    Raises:
        SystemExit: what was asked could not be done, or the data have faults.
    """
    with errors_in_one_line(ImportError):
        root = (args.root or Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))).expanduser()
        if args.verify:
            sys.exit(check(args, root))
        plan = only_parts(plan_of(args.dataset, root), args.only)
        prepare(plan, root, args.archives or root / "archives", dry_run=args.dry_run, again=args.again)
