"""Arguments that several commands have."""

import argparse
from collections.abc import Callable
from typing import Any

# The flags that describe the processes, with the values that leave it to `mocodet.common.launch`.
LAUNCH_FLAGS = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}


def positive(kind: type) -> Callable[[str], Any]:
    """Return what parses a positive number of ``kind``, int or float."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not number > 0:
            raise ValueError
        return number

    parse.__name__ = f"positive {kind.__name__}"  # argparse shows it
    return parse


def pair(form: str) -> Callable[[str], tuple[str, str]]:
    """Return what splits ``NAME=VALUE`` where neither is empty; ``form`` is how messages call it."""

    def parse(text: str) -> tuple[str, str]:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
        return name, value

    return parse


def add_overrides(parser: argparse.ArgumentParser, nargs: str = argparse.REMAINDER, keys: str = "config keys") -> None:
    """Add ``opts``, the KEY VALUE pairs that override ``keys``; ``"*"`` as ``nargs`` lets flags follow them."""
    what = f"{keys} to override, given in pairs at the end of the command"
    parser.add_argument("opts", metavar="KEY VALUE", nargs=nargs, help=what)


def add_training_arguments(parser: argparse.ArgumentParser, eval_only: bool = False) -> None:
    """Add the flags of detectron2's own ``train_net.py`` that all training commands understand.

    ``eval_only``: also its ``--eval-only``, of those that train what can be evaluated.
    """
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="path to a YAML config file")
    add("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    add(
        "--num-gpus",
        type=int,
        metavar="N",
        help="GPUs per machine; on a machine without one, CPU processes (default 1). Under torchrun leave this and the"
        " next three out",
    )
    add("--num-machines", type=int, metavar="N", help="total number of machines (default 1)")
    add("--machine-rank", type=int, metavar="R", help="rank of this machine (default 0)")
    add("--dist-url", help="where the processes meet, for example tcp://host:port; 'auto' (default): this machine")
    if eval_only:
        what = "evaluate MODEL.WEIGHTS (or, with --resume, the last one of OUTPUT_DIR)"
        add("--eval-only", action="store_true", help=what)
    parser.set_defaults(**LAUNCH_FLAGS)
    add_overrides(parser)
