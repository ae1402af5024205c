"""Fine-tune a detectron2 detector from MoCo, supervised or random weights, or evaluate a detector (--eval-only).

  mocodet train --config-file pascal_voc_R_50_C4_24k_moco.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/moco_v2.pkl OUTPUT_DIR output/voc
  mocodet train --config-file pascal_voc_R_50_C4_24k_moco.yaml --eval-only \\
      MODEL.WEIGHTS output/voc/model_final.pth OUTPUT_DIR output/voc_eval

OUTPUT_DIR/results.json contains the latest results, and OUTPUT_DIR/metrics.json contains all logged values.
"""

import argparse

from .arguments import add_training_arguments, check_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of detectron2's ``train_net.py``, and ``--scale-to-gpus`` for the linear scaling rule."""
    add_training_arguments(parser, eval_only=True)
    parser.add_argument(
        "--scale-to-gpus",
        action="store_true",
        help="adapt the config's schedule, which is designed for SOLVER.REFERENCE_WORLD_SIZE processes (8 if unset), to"
        " the actual number of processes: the batch size and the learning rate are scaled proportionally, and the"
        " number of iterations inversely",
    )


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if flags exclude each other."""
    check_training(parser, args)
    if args.eval_only and args.scale_to_gpus:
        parser.error("--scale-to-gpus scales the training schedule, so it cannot be combined with --eval-only")
