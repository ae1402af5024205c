"""``prepare_data.py DATASET``: download or take archives, unpack them where detectron2 looks, check what is there."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mocodet.common.errors import errors_in_one_line

from . import cityscapes, coco, imagenet, lvis, voc
from .faults import Fault, Tally
from .steps import only_parts, prepare

DATASETS = {
    "voc": (voc, "Pascal VOC 2007 and 2012, and the trainaug masks (VOC and SBD) of semantic segmentation"),
    "coco": (coco, "COCO 2017: images, boxes, masks, keypoints"),
    "lvis": (lvis, "LVIS v0.5, annotations of COCO 2017's images"),
    "cityscapes": (cityscapes, "Cityscapes with fine annotations; its archives must be fetched by hand"),
    "imagenet": (imagenet, "ImageNet (ILSVRC 2012) as class folders; its archives must be fetched by hand"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit status 1 if a check finds a fault.

    Args:
        argv: the command line without the program's name; None: ``sys.argv``.

    Raises:
        SystemExit: what was asked could not be done, or the data have faults.
    """
    args = _parser().parse_args(argv)
    with errors_in_one_line(ImportError):
        _refuse_unused(args)
        if args.check:
            sys.exit(_check(args))
        root = _root(args)
        module, _ = DATASETS[args.dataset]
        plan = only_parts(module.plan(root), args.only)
        prepare(plan, root, args.archives or root / "archives", dry_run=args.dry_run, again=args.again)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Prepare a data set: download its archives, or take those that were fetched by hand, unpack them"
        " and lay them out as detectron2 expects. Interrupted, it goes on where it stopped; run a second time, it does"
        " nothing more; --again does all anew. With --check, verify what is there, without a network, and list every"
        " fault."
    )
    commands = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    for name, (_, what) in DATASETS.items():
        command = commands.add_parser(name, help=what, description=f"{what}.")
        _add_arguments(command)
        if name == "voc":
            command.add_argument(
                "--classes",
                nargs="+",
                metavar="NAME",
                help="with --check: ROOT itself is a folder in VOC's layout, of one's own, with these classes",
            )
        elif name == "coco":
            command.add_argument(
                "--json",
                type=Path,
                metavar="FILE",
                help="with --check: look at this file of one's own, in COCO's format",
            )
            command.add_argument("--images", type=Path, metavar="DIR", help="the images of --json")
    return parser


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of the data sets (default: $DETECTRON2_DATASETS, else ./datasets)",
    )
    command.add_argument(
        "--archives", type=Path, metavar="DIR", help="where archives are, or are downloaded to (default: ROOT/archives)"
    )
    command.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="prepare these parts; a wrong one lists all"
    )
    command.add_argument(
        "--again", action="store_true", help="take also the steps that have been taken, and replace what is there"
    )
    command.add_argument("--dry-run", action="store_true", help="list what would be done")
    command.add_argument("--check", action="store_true", help="verify what is there instead of preparing it")
    command.add_argument(
        "--any-size", action="store_true", help="with --check: do not compare counts with the published"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="with --check: processes that decode images (default: one a core)"
    )


def _refuse_unused(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect.

    Raises:
        ValueError: there is one, or ``--json`` lacks its images.
    """
    preparing = {"--archives": args.archives, "--only": args.only, "--dry-run": args.dry_run, "--again": args.again}
    checking = {"--any-size": args.any_size, "--workers": args.workers is not None}
    own = {f"--{name}": getattr(args, name, None) for name in ("classes", "json", "images")}
    unused = preparing if args.check else {**checking, **own}
    if given := [name for name, value in unused.items() if value]:
        raise ValueError(f"{given[0]} has no effect {'with' if args.check else 'without'} --check; leave it out")
    if args.any_size and any(own.values()):
        raise ValueError("--any-size has no effect on a data set of one's own; leave it out")
    if bool(own["--json"]) != bool(own["--images"]):
        raise ValueError("--json and --images, the folder that its file names are relative to, go together")


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
    module, _ = DATASETS[args.dataset]
    return module.check(_root(args), tally, any_size=args.any_size, workers=workers)
