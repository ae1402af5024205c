"""Prepare a data set: download its archives, unpack them and lay them out as detectron2 expects.

  mocodet prepare-data voc
  mocodet prepare-data coco --check
  mocodet prepare-data images photographs --output exclude.txt

Archives that were fetched by hand are taken, too. Interrupted, it goes on where it stopped; run a second time, it does
nothing more; --again does all anew. With --check, verify what is there, without a network, and list every fault.
Of photographs to pre-train on, list those that are damaged, tiny or there twice.
All flags of a data set: mocodet prepare-data voc --help.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from .arguments import add_max_pixels, positive

# name -> what it is. `common/prepare/datasets.py` and the file of common/checks/ that has the name know the rest.
DATASETS = {
    "voc": "Pascal VOC 2007 and 2012, and the trainaug masks (VOC and SBD) of semantic segmentation",
    "coco": "COCO 2017: images, boxes, masks, keypoints",
    "lvis": "LVIS v0.5, annotations of COCO 2017's images",
    "cityscapes": "Cityscapes with fine annotations; its archives must be fetched by hand",
    "imagenet": "ImageNet (ILSVRC 2012) as class folders; its archives must be fetched by hand",
}
# Formats of one's own data sets besides VOC's and COCO's: nothing is to be prepared, but what is there can be checked.
OWN = {
    "yolo": "boxes and polygons of one's own in YOLO's format (with --check)",
    "semseg": "label images of one's own, of semantic segmentation (with --check)",
}

PHOTOGRAPHS = "images"
MIN_SIDE = 32  # pixels: what a ResNet makes one cell of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each data set."""
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    workers = positive(int, or_zero=True)
    for name, what in DATASETS.items():
        add = datasets.add_parser(name, help=what, description=f"{what}.").add_argument
        root = "folder of the data sets (default: $DETECTRON2_DATASETS, else ./datasets)"
        add("--root", type=Path, metavar="DIR", help=root)
        where = "where archives are, or are downloaded to (default: ROOT/archives)"
        add("--archives", type=Path, metavar="DIR", help=where)
        add("--only", nargs="+", default=[], metavar="PART", help="prepare these parts; a wrong one lists all")
        add("--again", action="store_true", help="take also the steps that have been taken, and replace what is there")
        add("--dry-run", action="store_true", help="list what would be done")
        add("--check", action="store_true", dest="verify", help="verify what is there instead of preparing it")
        add("--any-size", action="store_true", help="with --check: do not compare counts with the published")
        add("--workers", type=workers, metavar="N", help="with --check: processes that decode images (one a core)")
        add_max_pixels(add)
        if name == "voc":
            own = "with --check: ROOT itself is a folder in VOC's layout, of one's own, with these classes"
            add("--classes", nargs="+", metavar="NAME", help=own)
            more = "with --classes: lists of images that lie elsewhere than in ImageSets/Main"
            add("--lists", nargs="+", default=[], type=Path, metavar="FILE", help=more)
        elif name == "coco":
            own = "with --check: look at this file of one's own, in COCO's format"
            add("--json", type=Path, metavar="FILE", help=own)
            add("--images", type=Path, metavar="DIR", help="the images of --json")
    _add_photographs(datasets)
    for name, what in OWN.items():
        add = datasets.add_parser(name, help=what, description=f"{what}.").add_argument
        add("--check", action="store_true", dest="verify", required=True, help="verify what is there")
        add("--workers", type=workers, metavar="N", help="processes that decode images (one a core)")
        add_max_pixels(add)
        {"yolo": _add_yolo, "semseg": _add_label_images}[name](add)


def _add_photographs(datasets: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``images``."""
    what = "photographs to pre-train on: list what is damaged, tiny, or there twice"
    add = datasets.add_parser(PHOTOGRAPHS, help=what, description=f"{what}.").add_argument
    add("root", metavar="FOLDER", help="folder of images, searched to any depth")
    listed = "write the list that DATA.EXCLUDE takes (without it, exit status 1 if there is something to list)"
    add("--output", type=Path, metavar="LIST", help=listed)
    tiny = f"list images whose shorter side has fewer pixels (default: {MIN_SIDE})"
    add("--min-side", type=positive(int), default=MIN_SIDE, metavar="N", help=tiny)
    leaks = (
        "list images that are in a test split, too: its folder, or an entry as in MOCO.DATASETS, such as"
        " '{KIND: voc, ROOT: data/mine, SPLIT: test}'"
    )
    add("--leaks", metavar="DATASET", help=leaks)
    add("--workers", type=positive(int, or_zero=True), metavar="N", help="processes that decode (one a core)")
    add_max_pixels(add)


def _add_yolo(add: Callable[..., object]) -> None:
    """Add what a data set of ``KIND: yolo`` has, by the ``add_argument`` that is given."""
    add("--root", type=Path, required=True, metavar="PATH", help="data.yaml, or a folder with images and labels")
    add("--split", nargs="+", default=[], metavar="NAME", help="look at these, such as train (default: all)")
    names = "the names to keep, in their order; where nothing names the classes, all (default: those of data.yaml)"
    add("--classes", nargs="+", default=[], metavar="NAME", help=names)


def _add_label_images(add: Callable[..., object]) -> None:
    """Add what a data set of ``KIND: semseg`` has, by the ``add_argument`` that is given."""
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    add("--labels", type=Path, required=True, metavar="DIR", help="folder of label images, .png, of the same names")
    add("--classes", nargs="+", required=True, metavar="NAME", help="in the order of the indices, background included")
    add("--split", type=Path, metavar="FILE", help="list of images (default: all of --images)")
    add("--values", nargs="+", type=int, default=[], metavar="N", help="the label of each class (default: its index)")
    add("--ignore", type=int, default=255, metavar="N", help="the label that is ignored (default: 255)")
    most = "part of all pixels that --ignore may cover (default: 0.5)"
    add("--max-ignored", type=float, default=0.5, metavar="PART", help=most)
    add("--test", action="store_true", help="they are to evaluate on, not to train: a class may be absent")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that would have no effect, and ``--json`` without its images."""
    if args.dataset in OWN or args.dataset == PHOTOGRAPHS:
        return
    preparing = {"--archives": args.archives, "--only": args.only, "--dry-run": args.dry_run, "--again": args.again}
    checking = {"--any-size": args.any_size, "--workers": args.workers is not None}
    own = {f"--{name}": getattr(args, name, None) for name in ("classes", "json", "images")}
    unused = preparing if args.verify else {**checking, **own}
    if given := [name for name, value in unused.items() if value]:
        parser.error(f"{given[0]} has no effect {'with' if args.verify else 'without'} --check; leave it out")
    if args.any_size and any(own.values()):
        parser.error("--any-size has no effect on a data set of one's own; leave it out")
    if getattr(args, "lists", None) and not args.classes:
        parser.error("--lists are of a data set of one's own: say by --classes what its classes are")
    if bool(own["--json"]) != bool(own["--images"]):
        parser.error("--json and --images, the folder that its file names are relative to, go together")
