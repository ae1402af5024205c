"""Fine-tune a detectron2 detector from MoCo, supervised or random weights, or evaluate one (--eval-only).

  mocodet train --config-file pascal_voc_R_50_C4_24k_moco.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/moco_v2.pkl OUTPUT_DIR output/voc
  mocodet train --config-file pascal_voc_R_50_C4_24k_moco.yaml --eval-only \\
      MODEL.WEIGHTS output/voc/model_final.pth OUTPUT_DIR output/voc_eval

OUTPUT_DIR/results.json has the last results, OUTPUT_DIR/metrics.json everything that was logged.
"""

import argparse

from .arguments import add_training_arguments, check_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of detectron2's own ``train_net.py``, and the linear scaling rule."""
    add_training_arguments(parser, eval_only=True)
    parser.add_argument(
        "--scale-to-gpus",
        action="store_true",
        help="scale the config's schedule, made for SOLVER.REFERENCE_WORLD_SIZE processes (8 if unset), to the number"
        " of processes: batch and learning rate in proportion, iterations inversely",
    )


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other."""
    check_training(parser, args)
    if args.eval_only and args.scale_to_gpus:
        parser.error("--scale-to-gpus scales the schedule of a training; leave it out with --eval-only")
