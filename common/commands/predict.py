"""Run a trained model on unlabelled images, and save its predictions in COCO format, as label images and as figures.

  mocodet predict --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output predictions \\
      photographs more/0001.jpg MODEL.DEVICE cpu
  mocodet predict --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output predictions \\
      --overwrite --threshold 0.8 --no-pictures photographs

IMAGES are image files and folders. Detected objects are written to DIR/coco_instances_results.json, and the image ids,
file names and classes to DIR/images.json. For semantic segmentation, DIR/labels contains one PNG file per image.
DIR/pictures contains the images with the predictions drawn on them.
"""

import argparse
from collections.abc import Sequence

from .arguments import positive
from .images_and_pairs import add_images_and_pairs, parse_images_and_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the images and the output options."""
    add_images_and_pairs(parser, "image files, and folders that are searched recursively")
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="output folder for the predictions, which must be new or empty")
    add("--overwrite", action="store_true", help="replace existing predictions in DIR")
    what = (
        "minimum score of an object (default: write all objects that an evaluation keeps, and draw those that score at"
        " least 0.5)"
    )
    add("--threshold", type=_score, metavar="SCORE", help=what)
    what = "maximum number of images of the same size per batch (default: 1, as in an evaluation)"
    add("--batch-size", type=positive(int), default=1, metavar="N", help=what)
    add("--no-pictures", dest="pictures", action="store_false", help="do not draw the predictions, which is faster")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line that may contain flags between IMAGES and the KEY VALUE pairs; IMAGES are required."""
    args = parse_images_and_pairs(parser, words)
    if not args.images:
        parser.error("no IMAGES given; list image files or folders before the KEY VALUE pairs")
    return args


def _score(text: str) -> float:
    score = float(text)
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"expected a score from 0 to 1, got {text}")
    return score
