"""The command ``tools/train_classifier.py``: train a classifier, fine-tune one from an encoder, or evaluate one."""

import argparse
import logging

from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import last_checkpoint
from mocodet.common.launch import argument_parser, launch, merge_config
from mocodet.common.resnet import build_resnet

from . import cli
from .build import memory_format, resolve_device
from .config import get_cfg
from .evaluation.classification import ClassificationEvaluator, open_validation
from .supervised import load_classifier

logger = logging.getLogger("mocodet.pretrain")

DESCRIPTION = """Train a classifier from random weights or from a pre-trained encoder, or evaluate one (--eval-only).

from scratch, as the counterpart of MoCo (class folders):
  tools/train_classifier.py --config-file configs/pretrain/supervised_R_50_90ep.yaml --num-gpus 8 \\
      DATA.ROOT imagenet/train DATA.VAL_ROOT imagenet/val OUTPUT_DIR output/supervised

fine-tuning (iNaturalist's JSON files; any checkpoint that the converter reads):
  tools/train_classifier.py --config-file configs/classification/inat18_R_50_100ep_moco.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/moco_v2/model_final.pth OUTPUT_DIR output/inat18

evaluation of a classifier, here the last one of a run:
  tools/train_classifier.py --config-file configs/classification/inat18_R_50_100ep_moco.yaml --eval-only \\
      MODEL.WEIGHTS output/inat18/model_final.pth OUTPUT_DIR output/inat18/eval

Top-1 and top-5 accuracy on DATA.VAL_ROOT are in OUTPUT_DIR/metrics.json after each epoch, the latest in
OUTPUT_DIR/results.json. The classifier is in OUTPUT_DIR/model_final.pth; its encoder converts as MoCo's does.
"""


def parser() -> argparse.ArgumentParser:
    """Make the parser: the flags of ``tools/pretrain_net.py`` and ``--eval-only``."""
    made = argument_parser(DESCRIPTION)
    made.add_argument(
        "--eval-only",
        action="store_true",
        help="evaluate MODEL.WEIGHTS (or, with --resume, the last one of OUTPUT_DIR)",
    )
    return made


def refuse_other_methods(args: argparse.Namespace) -> None:
    """Refuse a config that does not train a classifier, before anything is written.

    Raises:
        FileNotFoundError, ValueError: see `merge_config`; or METHOD is not "supervised".
    """
    cfg = get_cfg()
    path = merge_config(cfg, args.config_file, args.opts)
    if cfg.METHOD != "supervised":
        raise ValueError(
            f"{path} has METHOD {cfg.METHOD!r}; expected 'supervised': pre-train by contrast with tools/pretrain_net.py"
        )


def checkpoint_to_evaluate(cfg: CfgNode, *, resume: bool) -> str:
    """Return ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint of ``OUTPUT_DIR``.

    Raises:
        FileNotFoundError: ``resume``, and there is none.
        ValueError: not ``resume``, and ``MODEL.WEIGHTS`` is empty.
    """
    if not resume:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("--eval-only, but MODEL.WEIGHTS is ''; name a classifier's checkpoint, or give --resume")
        return cfg.MODEL.WEIGHTS
    return str(last_checkpoint(cfg.OUTPUT_DIR))


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, float]:
    """Evaluate a checkpoint's classifier on the validation split; every process must call.

    The training images are not opened: that the checkpoint's classes are those of the split is known by their number.

    Returns:
        ``top1`` and ``top5``, in percent; also in ``OUTPUT_DIR/results.json``.

    Raises:
        FileNotFoundError, ValueError: no validation split, no checkpoint, or one that does not fit.
    """
    if not cfg.DATA.VAL_ROOT:
        raise ValueError("DATA.VAL_ROOT is ''; --eval-only needs a validation split")
    path = checkpoint_to_evaluate(cfg, resume=resume)
    split = open_validation(cfg)
    network = build_resnet(cfg.MODEL.ARCH, small_stem=cfg.MODEL.SMALL_STEM, num_classes=len(split.classes))
    iterations = load_classifier(network, path)
    network.to(resolve_device(cfg), memory_format=memory_format(cfg))
    logger.info(f"Evaluating {path}")
    return ClassificationEvaluator.from_config(cfg, network, split, period=1).evaluate(iterations)


def run(args: argparse.Namespace) -> None:
    """Do, in one process of the launched ones, what the command line asks for."""
    refuse_other_methods(args)
    cfg = cli.setup(args)
    if args.eval_only:
        evaluate(cfg, resume=args.resume)
    else:
        cli.train(cfg, resume=args.resume)


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    launch(run, parser().parse_args(argv))
