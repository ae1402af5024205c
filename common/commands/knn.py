"""Classify images by the nearest neighbours of their features (Wu et al., CVPR 2018, section 3.4).

This evaluation requires no training.

  mocodet knn output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8
  mocodet knn --random resnet50 --train imagenet/train --val imagenet/val --workers 8

The second command evaluates random weights as a baseline for pre-training. See docs/evaluation.md.
"""

import argparse

from .arguments import positive
from .features import add_feature_arguments, check_features

check = check_features  # no additional checks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shared arguments of feature evaluations, and those of the nearest-neighbour classifier."""
    add_feature_arguments(parser, "batch size (default: 256)")
    add = parser.add_argument_group("nearest neighbours").add_argument
    rows = "number of neighbours; each value adds a row to the results (default: 200)"
    add("--k", type=positive(int), nargs="+", default=[200], metavar="K", help=rows)
    add(
        "--temperature",
        type=positive(float),
        default=0.07,
        metavar="T",
        help="temperature for weighting the neighbours' votes (default: 0.07)",
    )
