"""Train a classifier from random weights or a pre-trained encoder, or evaluate a classifier (--eval-only).

from random weights, as the supervised counterpart of MoCo (images in class folders):
  mocodet classify --config-file pretrain/supervised_R_50_90ep.yaml --num-gpus 8 \\
      DATA.ROOT imagenet/train DATA.VAL_ROOT imagenet/val OUTPUT_DIR output/supervised

fine-tuning (iNaturalist JSON annotations, and any checkpoint that mocodet convert supports):
  mocodet classify --config-file classification/inat18_R_50_100ep_moco.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/moco_v2/model_final.pth OUTPUT_DIR output/inat18

evaluation of a trained classifier, here the final checkpoint of a run:
  mocodet classify --config-file classification/inat18_R_50_100ep_moco.yaml --eval-only \\
      MODEL.WEIGHTS output/inat18/model_final.pth OUTPUT_DIR output/inat18/eval

OUTPUT_DIR/metrics.json contains the top-1 and top-5 accuracy on DATA.VAL_ROOT after each epoch, and
OUTPUT_DIR/results.json contains the latest values. The trained classifier is saved as OUTPUT_DIR/model_final.pth. To
convert its encoder, use mocodet convert, as for a MoCo checkpoint.
"""

import argparse

from .arguments import add_training_arguments, check_training

check = check_training  # no additional checks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the training flags and ``--eval-only``."""
    add_training_arguments(parser, eval_only=True)
