"""Train a classifier from random weights or a pre-trained encoder, or evaluate one (--eval-only).

from scratch, as the counterpart of MoCo (class folders):
  mocodet classify --config-file pretrain/supervised_R_50_90ep.yaml --num-gpus 8 \\
      DATA.ROOT imagenet/train DATA.VAL_ROOT imagenet/val OUTPUT_DIR output/supervised

fine-tuning (iNaturalist's JSON files; any checkpoint that the converter reads):
  mocodet classify --config-file classification/inat18_R_50_100ep_moco.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/moco_v2/model_final.pth OUTPUT_DIR output/inat18

evaluation of a classifier, here the final one of a run:
  mocodet classify --config-file classification/inat18_R_50_100ep_moco.yaml --eval-only \\
      MODEL.WEIGHTS output/inat18/model_final.pth OUTPUT_DIR output/inat18/eval

OUTPUT_DIR/metrics.json has the top-1 and top-5 accuracy on DATA.VAL_ROOT after each epoch, OUTPUT_DIR/results.json the
latest. The classifier is OUTPUT_DIR/model_final.pth; mocodet convert takes its encoder as it takes MoCo's.
"""

import argparse

from .arguments import add_training_arguments, check_training

check = check_training  # no additional checks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the training flags and ``--eval-only``."""
    add_training_arguments(parser, eval_only=True)
