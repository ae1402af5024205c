"""Prepare a data set: download its archives, unpack them and lay them out as detectron2 expects.

  mocodet prepare-data voc
  mocodet prepare-data coco --check
  mocodet prepare-data images photographs --output exclude.txt

Archives that you fetched yourself are used, too. An interrupted command resumes where it left off; a complete data set
is left alone, unless you give --again. With --check, verify the files that are there, without a network, and list every
fault. 'images' lists photographs for pre-training that are damaged, tiny or duplicates.
All flags of a data set: mocodet prepare-data voc --help.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from .arguments import add_max_pixels, positive

# Name and description; the rest is in `common/prepare/datasets.py` and in the file of that name in common/checks/.
DATASETS = {
    "voc": "Pascal VOC 2007 and 2012, and the trainaug masks (VOC and SBD) for semantic segmentation",
    "coco": "COCO 2017: images, boxes, masks, keypoints",
    "lvis": "LVIS v0.5, annotations for the images of COCO 2017",
    "cityscapes": "Cityscapes with fine annotations; fetch its archives yourself",
    "imagenet": "ImageNet (ILSVRC 2012) as class folders; fetch its archives yourself",
}
# Formats of users' data sets beside VOC's and COCO's; there is nothing to prepare, but they can be checked.
OWN = {
    "yolo": "your own boxes and polygons in YOLO's format (with --check)",
    "semseg": "your own label images for semantic segmentation (with --check)",
}

PHOTOGRAPHS = "images"
MIN_SIDE = 32  # pixels, the stride of a ResNet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each data set."""
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    workers = positive(int, or_zero=True)
    for name, what in DATASETS.items():
        add = datasets.add_parser(name, help=what, description=f"{what}.").add_argument
        root = "folder of the data sets (default: $DETECTRON2_DATASETS, else ./datasets)"
        add("--root", type=Path, metavar="DIR", help=root)
        where = "folder of the archives, and of downloads (default: ROOT/archives)"
        add("--archives", type=Path, metavar="DIR", help=where)
        add(
            "--only",
            nargs="+",
            default=[],
            metavar="PART",
            help="prepare these parts alone; a wrong name lists all parts",
        )
        add("--again", action="store_true", help="repeat completed steps, too, and replace their files")
        add("--dry-run", action="store_true", help="list what would be done")
        add("--check", action="store_true", dest="verify", help="verify the data set instead of preparing it")
        add("--any-size", action="store_true", help="with --check: do not compare counts with the published ones")
        add(
            "--workers",
            type=workers,
            metavar="N",
            help="with --check: processes that decode images (default: one per core)",
        )
        add_max_pixels(add)
        if name == "voc":
            own = "with --check: ROOT itself is your own folder in VOC's layout, with these classes"
            add("--classes", nargs="+", metavar="NAME", help=own)
            more = "with --classes: lists of images outside ImageSets/Main"
            add("--lists", nargs="+", default=[], type=Path, metavar="FILE", help=more)
        elif name == "coco":
            own = "with --check: your own file in COCO's format, to check instead"
            add("--json", type=Path, metavar="FILE", help=own)
            add("--images", type=Path, metavar="DIR", help="folder of the images of --json")
    _add_photographs(datasets)
    for name, what in OWN.items():
        add = datasets.add_parser(name, help=what, description=f"{what}.").add_argument
        add("--check", action="store_true", dest="verify", required=True, help="verify the data set")
        add("--workers", type=workers, metavar="N", help="processes that decode images (default: one per core)")
        add_max_pixels(add)
        {"yolo": _add_yolo, "semseg": _add_label_images}[name](add)


def _add_photographs(datasets: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``images``."""
    what = "photographs for pre-training: list those that are damaged, tiny or duplicates"
    add = datasets.add_parser(PHOTOGRAPHS, help=what, description=f"{what}.").add_argument
    add("root", metavar="FOLDER", help="folder of images, searched to any depth")
    listed = "write the list that DATA.EXCLUDE takes (without this flag, exit status 1 if any image is listed)"
    add("--output", type=Path, metavar="LIST", help=listed)
    tiny = f"list images whose shorter side is below N pixels (default: {MIN_SIDE})"
    add("--min-side", type=positive(int), default=MIN_SIDE, metavar="N", help=tiny)
    leaks = (
        "also list images that occur in a test split: its folder, or an entry as in MOCO.DATASETS, such as"
        " '{KIND: voc, ROOT: data/mine, SPLIT: test}'"
    )
    add("--leaks", metavar="DATASET", help=leaks)
    add(
        "--workers",
        type=positive(int, or_zero=True),
        metavar="N",
        help="processes that decode images (default: one per core)",
    )
    add_max_pixels(add)


def _add_yolo(add: Callable[..., object]) -> None:
    """Add the arguments of a data set of ``KIND: yolo``; ``add`` is a parser's ``add_argument``."""
    add("--root", type=Path, required=True, metavar="PATH", help="data.yaml, or a folder with images and labels")
    add("--split", nargs="+", default=[], metavar="NAME", help="splits to check, such as train (default: all)")
    names = "classes to keep, in order (default: those of data.yaml); needed where no file names the classes"
    add("--classes", nargs="+", default=[], metavar="NAME", help=names)


def _add_label_images(add: Callable[..., object]) -> None:
    """Add the arguments of a data set of ``KIND: semseg``; ``add`` is a parser's ``add_argument``."""
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    add("--labels", type=Path, required=True, metavar="DIR", help="folder of label images, .png, with the same names")
    add(
        "--classes",
        nargs="+",
        required=True,
        metavar="NAME",
        help="class names in the order of the labels, background included",
    )
    add("--split", type=Path, metavar="FILE", help="list of images (default: all of --images)")
    add("--values", nargs="+", type=int, default=[], metavar="N", help="the label of each class (default: its index)")
    add("--ignore", type=int, default=255, metavar="N", help="the label to ignore (default: 255)")
    most = "largest share of all pixels that --ignore may cover (default: 0.5)"
    add("--max-ignored", type=float, default=0.5, metavar="PART", help=most)
    add("--test", action="store_true", help="the images are for evaluation, so a class may be absent")


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
        parser.error("--any-size has no effect on your own data set; leave it out")
    if getattr(args, "lists", None) and not args.classes:
        parser.error("--lists goes with your own data set; name its classes by --classes")
    if bool(own["--json"]) != bool(own["--images"]):
        parser.error("--json and --images, the folder that its file names are relative to, go together")
