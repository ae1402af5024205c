"""The command ``mocodet classify``: train a classifier, fine-tune one from an encoder, or evaluate one."""

import argparse
import logging

from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import last_checkpoint
from mocodet.common.launch import check_output, launch

from .checkpoint import load_classifier
from .config import check_config
from .device import memory_format, resolve_device
from .evaluation.classification import ClassificationEvaluator, open_validation
from .methods import METHODS
from .methods.base import DataFacts
from .run import announce, pretrain, read_config, start

logger = logging.getLogger("mocodet.pretrain")


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, float]:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint of ``OUTPUT_DIR``, on the validation split.

    Every process must call it. The training images are not opened; the checkpoint's classes are compared with those of
    the split by their number only.

    Returns:
        ``top1`` and ``top5``, in percent; also in ``OUTPUT_DIR/results.json``.

    Raises:
        FileNotFoundError, ValueError: no validation split, no checkpoint, or a checkpoint that does not fit.
    """
    if not cfg.DATA.VAL_ROOT:
        raise ValueError("DATA.VAL_ROOT is ''; --eval-only needs a validation split")
    if not resume and not cfg.MODEL.WEIGHTS:
        raise ValueError("--eval-only, but MODEL.WEIGHTS is ''; set it to a classifier's checkpoint or give --resume")
    path = last_checkpoint(cfg.OUTPUT_DIR) if resume else cfg.MODEL.WEIGHTS
    split = open_validation(cfg)
    facts = DataFacts(size=len(split.labels), classes=tuple(split.classes))
    network = METHODS[cfg.METHOD].from_config(cfg, facts).encoder_to_transfer
    iterations = load_classifier(network, path)
    network.to(resolve_device(cfg)).to(memory_format=memory_format(cfg))
    announce(cfg)
    logger.info(f"Evaluating {path}")
    return ClassificationEvaluator(cfg, network, split, period=1).evaluate(iterations)


def run(args: argparse.Namespace) -> None:
    """Run the command in one of the launched processes.

    Raises:
        FileNotFoundError, ValueError: METHOD does not classify; or see `read_config` and the functions called after it.
    """
    cfg = read_config(args)
    if cfg.METHOD in METHODS and not METHODS[cfg.METHOD].classifies:
        raise ValueError(
            f"{args.config_file} has METHOD {cfg.METHOD!r}; expected 'supervised': pre-train by contrast with mocodet"
            " pretrain"
        )
    if args.eval_only:
        check_config(cfg)
        check_output(cfg.OUTPUT_DIR)
        start(cfg, resume=args.resume)
        evaluate(cfg, resume=args.resume)
    else:
        pretrain(cfg, resume=args.resume)


def main(args: argparse.Namespace) -> None:
    """Run the command in as many processes as the command line asks for."""
    launch(run, args, read_config)
