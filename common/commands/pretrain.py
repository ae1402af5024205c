"""Pre-train an encoder by MoCo, a related method or with class labels, from a folder of images or from shards.

  mocodet pretrain --config-file pretrain/moco_v2_R_50_200ep.yaml --num-gpus 8 \\
      DATA.ROOT imagenet/train OUTPUT_DIR output/moco_v2
  mocodet pretrain --config-file pretrain/own_images_R_18.yaml DATA.ROOT photographs OUTPUT_DIR output/mine

The encoder is in OUTPUT_DIR/model_final.pth; rewrite it for detectron2 with mocodet convert.

MODEL.WEIGHTS starts the encoder of a new run from a checkpoint, --resume continues a run of mocodet, --resume-from one
of the original code: docs/warm_start.md explains the differences.
"""

import argparse

from .arguments import add_allow_pipe, add_training_arguments, check_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the training flags, and those for checkpoints of the original code."""
    add_training_arguments(parser)
    begin = "continue from this checkpoint of the original MoCo code, in an OUTPUT_DIR without checkpoints"
    parser.add_argument("--resume-from", default="", metavar="FILE", help=begin)
    add_allow_pipe(parser)
    end = "write the last checkpoint of OUTPUT_DIR in the original format to FILE, and exit; one process"
    parser.add_argument("--export", metavar="FILE", help=end)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other."""
    check_training(parser, args)
    if args.export is not None and (args.resume or args.resume_from):
        parser.error("--export trains nothing; leave out --resume and --resume-from, or --export")
