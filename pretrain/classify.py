"""The command ``mocodet classify``: trains a classifier, fine-tunes an encoder as a classifier, or evaluates one."""

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
    """Evaluate ``MODEL.WEIGHTS`` (or, with ``resume``, the last checkpoint in ``OUTPUT_DIR``) on the validation split.

    All processes must call this function. It does not read the training images, so it compares only the number of
    classes in the checkpoint with that of the split.

    Returns:
        ``top1`` and ``top5`` in percent, which are also written to ``OUTPUT_DIR/results.json``.

    Raises:
        FileNotFoundError, ValueError: there is no validation split or no checkpoint, or the checkpoint does not match.
    """
    if not cfg.DATA.VAL_ROOT:
        raise ValueError("DATA.VAL_ROOT is ''; --eval-only requires a validation split")
    if not resume and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "--eval-only was given, but MODEL.WEIGHTS is ''; set it to a classifier checkpoint or add --resume"
        )
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
        FileNotFoundError, ValueError: METHOD does not train a classifier; see also `read_config` and the functions
            called after it.
    """
    cfg = read_config(args)
    if cfg.METHOD in METHODS and not METHODS[cfg.METHOD].classifies:
        raise ValueError(
            f"{args.config_file} has METHOD {cfg.METHOD!r}; expected 'supervised'. Use mocodet pretrain for the"
            " contrastive methods"
        )
    if args.eval_only:
        check_config(cfg)
        check_output(cfg.OUTPUT_DIR)
        start(cfg, resume=args.resume)
        evaluate(cfg, resume=args.resume)
    else:
        pretrain(cfg, resume=args.resume)


def main(args: argparse.Namespace) -> None:
    """Run the command in the number of processes given on the command line."""
    launch(run, args, read_config)
