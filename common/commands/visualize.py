"""Draw ground truth beside the predictions of one or more runs, one picture for each image.

  mocodet visualize --config-file pascal_voc_R_50_C4_24k_moco.yaml --output output/pictures \\
      --predictions moco=output/moco --predictions random=output/random
  mocodet visualize --config-file output/moco/config.yaml --output output/pictures --predictions moco=output/moco \\
      --image-id 000001 --image-id 000002 --threshold 0.3

A run's evaluation writes predictions to OUTPUT_DIR/inference/<data set>. The config defines the data set.
"""

import argparse

from .arguments import add_overrides, check_config, pair, positive

CHOICE = {"images": 10, "seed": 0}  # the flags that choose images, with their defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs, the data set, and which images to draw."""
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="config of one of the runs")
    add(
        "--predictions",
        action="append",
        required=True,
        type=pair("NAME=PATH"),
        metavar="NAME=PATH",
        help="title and predictions of a run: OUTPUT_DIR, OUTPUT_DIR/inference/<data set>, or the file in it; give it"
        " once for each run",
    )
    add("--dataset", metavar="NAME", help="data set of the predictions (default: the first of DATASETS.TEST)")
    add("--output", required=True, metavar="DIR", help="folder for the pictures")
    add("--images", type=positive(int), metavar="N", help="draw N images, chosen by --seed (default: 10)")
    add("--seed", type=int, metavar="S", help="seed of the choice of images (default: 0)")
    add(
        "--image-id",
        action="append",
        default=[],
        metavar="ID",
        help="draw this image instead; may be repeated. ID is the image_id or, if the data set has none, the file's"
        " name without its suffix",
    )
    score = "lowest score of a prediction to draw (default: 0.5)"
    add("--threshold", type=float, default=0.5, metavar="SCORE", help=score)
    add_overrides(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse two runs of one name, a missing config, and --image-id beside a choice; fill in the choice's defaults."""
    check_config(parser, args)
    if args.image_id and (given := [name for name in CHOICE if getattr(args, name) is not None]):
        parser.error(f"--{given[0]} chooses images, and --image-id names them; leave out one of the two")
    for name, default in CHOICE.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    names = [name for name, _ in args.predictions]
    if len(set(names)) != len(names):
        parser.error(f"--predictions names must differ, got {', '.join(names)}")
