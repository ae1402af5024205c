"""Predict on images without labels with a trained model; write results in COCO's format, label images, pictures.

  mocodet predict --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output predictions \\
      photographs more/0001.jpg MODEL.DEVICE cpu
  mocodet predict --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output predictions \\
      --overwrite --threshold 0.8 --no-pictures photographs

IMAGES are files and folders. Objects are written to DIR/coco_instances_results.json, with ids, names and classes in
DIR/images.json. For semantic segmentation, DIR/labels holds a PNG for each image. DIR/pictures shows the predictions.
"""

import argparse
from collections.abc import Sequence

from .arguments import positive
from .images_and_pairs import add_images_and_pairs, parse_images_and_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the images and the output."""
    add_images_and_pairs(parser, "image files, and folders, searched to any depth")
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="folder for the predictions, new or empty")
    add("--overwrite", action="store_true", help="replace the predictions that DIR holds")
    what = "lowest score of an object (default: write what an evaluation keeps, draw from 0.5)"
    add("--threshold", type=_score, metavar="SCORE", help=what)
    what = "images of one size in a batch (default: 1, as in an evaluation)"
    add("--batch-size", type=positive(int), default=1, metavar="N", help=what)
    add("--no-pictures", dest="pictures", action="store_false", help="draw no pictures, which is faster")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command with flags between IMAGES and the pairs; refuse one without IMAGES."""
    args = parse_images_and_pairs(parser, words)
    if not args.images:
        parser.error("no IMAGES given; name files or folders, before the pairs of KEY VALUE")
    return args


def _score(text: str) -> float:
    score = float(text)
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"expected a score from 0 to 1, got {text}")
    return score
