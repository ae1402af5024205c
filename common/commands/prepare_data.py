"""Prepare a data set: download its archives, unpack them and arrange the files as detectron2 expects.

  mocodet prepare-data voc
  mocodet prepare-data coco --check
  mocodet prepare-data images photographs --output exclude.txt

Archives that you have already downloaded are also used. An interrupted command resumes where it left off, and a
complete data set is not changed unless you pass --again. With --check, the command verifies the existing files without
network access and lists every problem. 'images' lists photographs for pre-training that are damaged, tiny,
flat or duplicates. To list all flags of a data set, run, for example, mocodet prepare-data voc --help.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from .arguments import add_max_pixels, positive

# Name and description of each data set. `common/prepare/datasets.py` defines its preparation, and the file of the same
# name in `common/checks/` its checks.
DATASETS = {
    "voc": "Pascal VOC 2007 and 2012, and the trainaug masks (VOC and SBD) for semantic segmentation",
    "coco": "COCO 2017: images, boxes, masks, keypoints",
    "lvis": "LVIS v0.5: annotations for the images of COCO 2017",
    "cityscapes": "Cityscapes with fine annotations; requires that you download the archives manually",
    "imagenet": "ImageNet (ILSVRC 2012) in class folders; requires that you download the archives manually",
}
# Formats of users' own data sets other than VOC and COCO. These data sets need no preparation but can be checked.
OWN = {
    "yolo": "your own boxes and polygons in YOLO format (with --check)",
    "semseg": "your own label images for semantic segmentation (with --check)",
}

PHOTOGRAPHS = "images"
MIN_SIDE = 32  # pixels, the stride of a ResNet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each data set."""
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    workers = positive(int, or_zero=True)
    for name, what in DATASETS.items():
        add = datasets.add_parser(name, help=what, description=f"{what}.").add_argument
        root = "root folder of all data sets (default: $DETECTRON2_DATASETS if set, otherwise ./datasets)"
        add("--root", type=Path, metavar="DIR", help=root)
        where = "folder of the archives, including downloaded ones (default: ROOT/archives)"
        add("--archives", type=Path, metavar="DIR", help=where)
        add(
            "--only",
            nargs="+",
            default=[],
            metavar="PART",
            help="prepare only these parts; an unknown name prints the list of all parts",
        )
        add("--again", action="store_true", help="also repeat completed steps, and replace their files")
        add("--dry-run", action="store_true", help="list the steps without running them")
        add("--check", action="store_true", dest="verify", help="verify the data set instead of preparing it")
        add("--any-size", action="store_true", help="with --check: do not compare the counts with the published counts")
        add(
            "--workers",
            type=workers,
            metavar="N",
            help="with --check: number of processes that decode images (default: one per core)",
        )
        add_max_pixels(add)
        if name == "voc":
            own = "with --check: treat ROOT as your own data set in VOC layout, with these classes"
            add("--classes", nargs="+", metavar="NAME", help=own)
            more = "with --classes: image lists that are stored outside ImageSets/Main"
            add("--lists", nargs="+", default=[], type=Path, metavar="FILE", help=more)
        elif name == "coco":
            own = "with --check: check your own annotation file in COCO format instead"
            add("--json", type=Path, metavar="FILE", help=own)
            add("--images", type=Path, metavar="DIR", help="folder that contains the images of --json")
    _add_photographs(datasets)
    for name, what in OWN.items():
        add = datasets.add_parser(name, help=what, description=f"{what}.").add_argument
        add("--check", action="store_true", dest="verify", required=True, help="verify the data set")
        decode = "number of processes that decode images (default: one per core)"
        add("--workers", type=workers, metavar="N", help=decode)
        add_max_pixels(add)
        {"yolo": _add_yolo, "semseg": _add_label_images}[name](add)


def _add_photographs(datasets: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand ``images``."""
    what = "list photographs for pre-training that are damaged, tiny, flat or duplicates"
    add = datasets.add_parser(PHOTOGRAPHS, help=what, description=f"{what}.").add_argument
    add("root", metavar="FOLDER", help="folder of images, which is searched recursively")
    listed = (
        "write the list to this file, for use as DATA.EXCLUDE (without this flag, the exit status is 1 if any image is"
        " listed)"
    )
    add("--output", type=Path, metavar="FILE", help=listed)
    tiny = f"list images whose shorter side is less than N pixels (default: {MIN_SIDE})"
    add("--min-side", type=positive(int), default=MIN_SIDE, metavar="N", help=tiny)
    leaks = (
        "also list images that occur in this test split, given as a folder or as an entry of MOCO.DATASETS, such as"
        " '{KIND: voc, ROOT: data/mine, SPLIT: test}'"
    )
    add("--leaks", metavar="DATASET", help=leaks)
    add(
        "--workers",
        type=positive(int, or_zero=True),
        metavar="N",
        help="number of processes that decode images (default: one per core)",
    )
    add_max_pixels(add)


def _add_yolo(add: Callable[..., object]) -> None:
    """Add the arguments for a data set of ``KIND: yolo``. ``add`` is the parser's ``add_argument`` method."""
    add("--root", type=Path, required=True, metavar="PATH", help="data.yaml, or a folder with images and labels")
    add("--split", nargs="+", default=[], metavar="NAME", help="splits to check, such as train (default: all)")
    names = "classes to keep, in order (default: the classes in data.yaml); required if no file lists the classes"
    add("--classes", nargs="+", default=[], metavar="NAME", help=names)


def _add_label_images(add: Callable[..., object]) -> None:
    """Add the arguments for a data set of ``KIND: semseg``. ``add`` is the parser's ``add_argument`` method."""
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    add("--labels", type=Path, required=True, metavar="DIR", help="folder of .png label images with the same names")
    add(
        "--classes",
        nargs="+",
        required=True,
        metavar="NAME",
        help="class names in the order of the labels, including the background",
    )
    add("--split", type=Path, metavar="FILE", help="file that lists the images to check (default: all of --images)")
    values = "label value of each class (default: the index of the class)"
    add("--values", nargs="+", type=int, default=[], metavar="N", help=values)
    add("--ignore", type=int, default=255, metavar="N", help="label value to ignore (default: 255)")
    most = "maximum fraction of all pixels that may have the --ignore value (default: 0.5)"
    add("--max-ignored", type=float, default=0.5, metavar="PART", help=most)
    add("--test", action="store_true", help="treat the images as an evaluation set, in which classes may be absent")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if a flag would have no effect, or if only one of ``--json`` and ``--images`` is given."""
    if args.dataset in OWN or args.dataset == PHOTOGRAPHS:
        return
    preparing = {"--archives": args.archives, "--only": args.only, "--dry-run": args.dry_run, "--again": args.again}
    checking = {"--any-size": args.any_size, "--workers": args.workers is not None}
    own = {f"--{name}": getattr(args, name, None) for name in ("classes", "json", "images")}
    unused = preparing if args.verify else {**checking, **own}
    if given := [name for name, value in unused.items() if value]:
        parser.error(f"{given[0]} {'cannot' if args.verify else 'can only'} be used with --check")
    if args.any_size and any(own.values()):
        parser.error("--any-size has no effect on your own data set; remove it")
    if getattr(args, "lists", None) and not args.classes:
        parser.error("--lists requires --classes, the classes of your own data set")
    if bool(own["--json"]) != bool(own["--images"]):
        parser.error("--json and --images must be used together; file names in --json are relative to --images")
