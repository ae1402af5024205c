"""Export a trained model to TorchScript, which runs without mocodet and detectron2, and verify the exported model.

  mocodet export --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output voc.ts
  mocodet export --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output voc.ts \\
      photographs MODEL.DEVICE cpu

IMAGES are image files that show objects, and folders of such files. The exported model is compared with the original
on the first three images or, without IMAGES, on three generated images. The exported model runs on the device that it
was exported on, MODEL.DEVICE.
"""

import argparse
from collections.abc import Sequence

from .images_and_pairs import add_images_and_pairs, parse_images_and_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the output file, and the images for the comparison."""
    what = "images for the comparison, of which the first three are used (default: three generated images)"
    add_images_and_pairs(parser, what)
    what = "TorchScript file to write, such as model.ts"
    parser.add_argument("--output", required=True, metavar="FILE", help=what)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line that may contain flags between IMAGES and the KEY VALUE pairs."""
    return parse_images_and_pairs(parser, words)
