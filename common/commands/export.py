"""Write a trained model as TorchScript, which runs without mocodet and detectron2, and compare the two.

  mocodet export --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output voc.ts
  mocodet export --config-file output/voc/config.yaml --weights output/voc/model_final.pth --output voc.ts \\
      photographs MODEL.DEVICE cpu

IMAGES are files and folders of images with objects. The file is compared with the model on the first three of them, or
on three generated images. The file runs on the device on which it was exported, MODEL.DEVICE.
"""

import argparse
from collections.abc import Sequence

from .images_and_pairs import add_images_and_pairs, parse_images_and_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the file and the images to compare on."""
    add_images_and_pairs(parser, "images to compare on, the first three (default: three generated images)")
    what = "the TorchScript file to write, such as model.ts"
    parser.add_argument("--output", required=True, metavar="FILE", help=what)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command with flags between IMAGES and the pairs."""
    return parse_images_and_pairs(parser, words)
