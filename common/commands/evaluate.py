"""Compute the metrics of saved predictions again, as the run that saved them did.

  mocodet evaluate output/voc/inference/voc_2007_test --dataset voc_2007_test
  mocodet evaluate output/mine/inference/mine_test --config-file mine.yaml MODEL.MASK_ON True
  mocodet evaluate results.json --json annotations/instances_val2017.json
  mocodet evaluate detections --voc-root VOC2007 --split test --classes cat dog

PREDICTIONS is a run's OUTPUT_DIR, the folder OUTPUT_DIR/inference/<data set> in it, or a file in that: a JSON file in
COCO's result format (coco_instances_results.json, lvis_instances_results.json), instances_predictions.pth, a folder of
VOC's text files (<class>.txt), or sem_seg_predictions.json. With --config-file and without --dataset, the data set is
the one that the folder is named after, or the one in DATASETS.TEST.
"""

import argparse
from collections.abc import Sequence

from .arguments import add_overrides, check_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the predictions and the ways to name their ground truth."""
    parser.add_argument("predictions", metavar="PREDICTIONS", help="predictions of a run, a file or a folder")
    add_overrides(parser, "*", "config keys of --config-file")
    add = parser.add_argument_group("ground truth, by --dataset and --config-file or by one of the others").add_argument
    add("--dataset", metavar="NAME", help="a data set of detectron2 or of --config-file")
    config = "config whose MOCO.DATASETS defines the data set, and which sets the tasks to evaluate"
    # Absent unless given, so that it is never None.
    add("--config-file", default=argparse.SUPPRESS, metavar="FILE", help=config)
    add("--json", metavar="FILE", help="annotations in COCO's format")
    add("--voc-root", metavar="DIR", help="folder with Annotations/ and ImageSets/Main/; needs --classes")
    parser.add_argument("--split", help="with --voc-root: images of ImageSets/Main/SPLIT.txt (default: test)")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="with --voc-root: the class names")
    parser.add_argument("--year", type=int, choices=(2007, 2012), help="with --voc-root: which AP (default: 2007)")
    tasks = "for COCO's and LVIS's metrics (default: those of --config-file, else those of the predictions)"
    parser.add_argument("--tasks", nargs="+", default=[], choices=("bbox", "segm", "keypoints"), help=tasks)
    parser.add_argument("--output", metavar="FILE", help="also write the results to this JSON file")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command with flags between PREDICTIONS and the pairs."""
    return parser.parse_intermixed_args(words)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a ground truth that is not given, or given twice, and pairs that override nothing."""
    from_config = "config_file" in args
    given = [flag for flag, value in (("--json", args.json), ("--voc-root", args.voc_root)) if value]
    given += ["--dataset or --config-file"] if args.dataset or from_config else []
    if len(given) != 1:
        parser.error(
            "the ground truth must be given once, by --dataset, --config-file, --json or --voc-root;"
            f" got {' and '.join(given) or 'none of them'}"
        )
    if bool(args.classes) != bool(args.voc_root):
        parser.error("--voc-root and --classes go together: the folder, and the classes to evaluate")
    if not args.voc_root and (args.split or args.year):
        parser.error("--split and --year go with --voc-root; every other ground truth says which images it has")
    if args.opts and not from_config:
        parser.error(
            f"{' '.join(args.opts)} after PREDICTIONS: pairs of KEY VALUE override --config-file, which is not given"
        )
    if from_config:
        check_config(parser, args)
