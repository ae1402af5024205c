"""Classify images by the nearest neighbours of their features (Wu et al., CVPR 2018, section 3.4).

Nothing is trained.

  mocodet knn output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8
  mocodet knn --random resnet50 --train imagenet/train --val imagenet/val --workers 8

The second command evaluates random weights, which pre-training must beat. See docs/evaluation.md.
"""

import argparse

from .arguments import positive
from .features import add_feature_arguments, check_features

check = check_features  # no additional checks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the features and the neighbours."""
    add_feature_arguments(parser, "images at a time (default: 256)")
    add = parser.add_argument_group("nearest neighbours").add_argument
    rows = "number of neighbours; each number gives a row (default: 200)"
    add("--k", type=positive(int), nargs="+", default=[200], metavar="K", help=rows)
    add(
        "--temperature",
        type=positive(float),
        default=0.07,
        metavar="T",
        help="temperature of the votes (default: 0.07)",
    )
