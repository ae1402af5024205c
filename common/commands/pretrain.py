"""Pre-train an encoder with MoCo, a related method or class labels, on a folder of images or on shards.

  mocodet pretrain --config-file pretrain/moco_v2_R_50_200ep.yaml --num-gpus 8 \\
      DATA.ROOT imagenet/train OUTPUT_DIR output/moco_v2
  mocodet pretrain --config-file pretrain/own_images_R_18.yaml DATA.ROOT photographs OUTPUT_DIR output/mine

The encoder is saved in OUTPUT_DIR/model_final.pth. Use mocodet convert to convert it for detectron2.

MODEL.WEIGHTS initialises the encoder of a new run from a checkpoint, --resume continues a mocodet run, and
--resume-from continues a run of the original code. docs/warm_start.md explains the differences.
"""

import argparse

from .arguments import add_allow_pipe, add_training_arguments, check_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the training flags and the flags for checkpoints of the original code."""
    add_training_arguments(parser)
    begin = "resume from this checkpoint of the original MoCo code; OUTPUT_DIR must not contain checkpoints"
    parser.add_argument("--resume-from", default="", metavar="FILE", help=begin)
    add_allow_pipe(parser)
    end = "write the last checkpoint in OUTPUT_DIR to FILE in the original format, using a single process, and exit"
    parser.add_argument("--export", metavar="FILE", help=end)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if flags exclude each other."""
    check_training(parser, args)
    if args.export is not None and (args.resume or args.resume_from):
        parser.error("--export does not train, so it cannot be combined with --resume or --resume-from")
