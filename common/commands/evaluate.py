"""Recompute the metrics of saved predictions in the same way as the run that saved them.

  mocodet evaluate output/voc/inference/voc_2007_test --dataset voc_2007_test
  mocodet evaluate output/mine/inference/mine_test --config-file mine.yaml MODEL.MASK_ON True
  mocodet evaluate results.json --json annotations/instances_val2017.json
  mocodet evaluate detections --voc-root VOC2007 --split test --classes cat dog

PREDICTIONS is the OUTPUT_DIR of a run, the folder OUTPUT_DIR/inference/<data set>, or the predictions themselves: a
JSON file in COCO's results format (coco_instances_results.json, lvis_instances_results.json),
instances_predictions.pth, a folder of VOC text files (<class>.txt), or sem_seg_predictions.json. With --config-file but
without --dataset, the data set is determined by the name of the folder or, failing that, by DATASETS.TEST.
"""

import argparse
from collections.abc import Sequence

from .arguments import add_imports, add_overrides, check_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the predictions, and the arguments that specify their ground truth."""
    parser.add_argument("predictions", metavar="PREDICTIONS", help="file or folder with the predictions of a run")
    add_overrides(parser, "*", "config keys of --config-file")
    add = parser.add_argument_group("ground truth (--dataset and --config-file, or one of the others)").add_argument
    add("--dataset", metavar="NAME", help="name of a data set that detectron2 or --config-file defines")
    config = "config that defines the data set in MOCO.DATASETS and selects the tasks to evaluate"
    # The attribute is absent unless the flag is given, so that it is never None.
    add("--config-file", default=argparse.SUPPRESS, metavar="FILE", help=config)
    add("--json", metavar="FILE", help="annotation file in COCO format")
    add("--voc-root", metavar="DIR", help="folder with Annotations/ and ImageSets/Main/; requires --classes")
    split = "with --voc-root: evaluate the images listed in ImageSets/Main/SPLIT.txt (default: test)"
    parser.add_argument("--split", help=split)
    classes = "with --voc-root: names of the classes to evaluate"
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help=classes)
    year = "with --voc-root: year of the VOC challenge whose definition of AP to use (default: 2007)"
    parser.add_argument("--year", type=int, choices=(2007, 2012), help=year)
    tasks = "tasks for the COCO and LVIS metrics (default: the tasks of --config-file, or else of the predictions)"
    parser.add_argument("--tasks", nargs="+", default=[], choices=("bbox", "segm", "keypoints"), help=tasks)
    parser.add_argument("--output", metavar="FILE", help="also write the results to this JSON file")
    add_imports(parser, "a data set or an evaluation kind")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line that may contain flags between PREDICTIONS and the KEY VALUE pairs."""
    return parser.parse_intermixed_args(words)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error unless there is exactly one ground truth, or if KEY VALUE pairs have no config to override."""
    from_config = "config_file" in args
    given = [flag for flag, value in (("--json", args.json), ("--voc-root", args.voc_root)) if value]
    given += ["--dataset or --config-file"] if args.dataset or from_config else []
    if len(given) != 1:
        parser.error(
            "expected exactly one ground truth, given by --dataset or --config-file, by --json or by --voc-root;"
            f" got {' and '.join(given) or 'none of them'}"
        )
    if bool(args.classes) != bool(args.voc_root):
        parser.error("--voc-root and --classes must be used together; pass the folder and the classes to evaluate")
    if not args.voc_root and (args.split or args.year):
        parser.error("--split and --year can only be used with --voc-root; other ground truth defines its own images")
    if args.opts and not from_config:
        parser.error(
            f"unexpected {' '.join(args.opts)} after PREDICTIONS; KEY VALUE pairs can only be used with --config-file"
        )
    if from_config:
        check_config(parser, args)
