"""Draw the ground truth next to the predictions of one or more runs, in one figure per image.

  mocodet visualize --config-file pascal_voc_R_50_C4_24k_moco.yaml --output output/pictures \\
      --predictions moco=output/moco --predictions random=output/random
  mocodet visualize --config-file output/moco/config.yaml --output output/pictures --predictions moco=output/moco \\
      --image-id 000001 --image-id 000002 --threshold 0.3

The evaluation of a run writes its predictions to OUTPUT_DIR/inference/<data set>. The config defines the data set.
"""

import argparse

from .arguments import add_imports, add_overrides, check_config, pair, positive

CHOICE = {"images": 10, "seed": 0}  # the flags for a random selection of images, and their defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs, the data set, and the selection of images to draw."""
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="config of one of the runs")
    add(
        "--predictions",
        action="append",
        required=True,
        type=pair("NAME=PATH"),
        metavar="NAME=PATH",
        help="title and predictions of a run, where PATH is OUTPUT_DIR, OUTPUT_DIR/inference/<data set>, or the"
        " predictions file in that folder; repeat for each run",
    )
    add("--dataset", metavar="NAME", help="data set of the predictions (default: the first one in DATASETS.TEST)")
    add("--output", required=True, metavar="DIR", help="output folder for the figures")
    what = "number of images to draw, which are selected at random with --seed (default: 10)"
    add("--images", type=positive(int), metavar="N", help=what)
    add("--seed", type=int, metavar="S", help="seed for the random selection of images (default: 0)")
    add(
        "--image-id",
        action="append",
        default=[],
        metavar="ID",
        help="draw the image with this ID instead; may be repeated. ID is the image_id or, if the data set does not"
        " define one, the file name without its extension",
    )
    score = "minimum score of the predictions to draw (default: 0.5)"
    add("--threshold", type=float, default=0.5, metavar="SCORE", help=score)
    add_imports(parser, "a data set or an evaluation kind")
    add_overrides(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if a config is missing or flags conflict; set the defaults of the random selection."""
    check_config(parser, args)
    if args.image_id and (given := [name for name in CHOICE if getattr(args, name) is not None]):
        parser.error(f"--{given[0]} cannot be combined with --image-id; use one of them to select images")
    for name, default in CHOICE.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    names = [name for name, _ in args.predictions]
    if len(set(names)) != len(names):
        parser.error(f"the names given with --predictions must be unique, got {', '.join(names)}")
