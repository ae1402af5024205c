"""Arguments shared by multiple commands."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mocodet import configs
from mocodet.common.config.pairs import read_pairs
from mocodet.common.formats import MAX_PIXELS

from .parser import Parser

# Flags that configure the processes, and their defaults.
LAUNCH_FLAGS = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}


def positive(kind: type, or_zero: bool = False) -> Callable[[str], Any]:
    """Return a function that parses a positive ``kind``, either int or float. With ``or_zero``, 0 is also valid."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not (number > 0 or (or_zero and number == 0)):
            raise ValueError
        return number

    parse.__name__ = f"{'non-negative' if or_zero else 'positive'} {kind.__name__}"  # shown by argparse
    return parse


def pair(form: str) -> Callable[[str], tuple[str, str]]:
    """Return a function that splits ``NAME=VALUE`` into two non-empty strings. Messages describe it as ``form``."""

    def parse(text: str) -> tuple[str, str]:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
        return name, value

    return parse


def add_max_pixels(add: Callable[..., Any]) -> None:
    """Add ``--max-pixels`` to a command that takes no config. ``add`` is the parser's ``add_argument`` method."""
    limit = (
        "reject images with more than N pixels, which could exhaust the memory; 0 disables the limit (default:"
        " Pillow's limit)"
    )
    add("--max-pixels", type=positive(int, or_zero=True), default=MAX_PIXELS, metavar="N", help=limit)


def add_overrides(parser: argparse.ArgumentParser, nargs: str = argparse.REMAINDER, keys: str = "config keys") -> None:
    """Add ``opts``, the KEY VALUE pairs that override ``keys``. With ``nargs="*"``, flags may follow the pairs."""
    what = f"{keys} to override, given as KEY VALUE pairs at the end of the command"
    parser.add_argument("opts", metavar="KEY VALUE", nargs=nargs, action=_Pairs, help=what)


class _Pairs(argparse.Action):
    """Rejects unknown flags, then words that are not KEY VALUE pairs, before argparse reports a flag as missing."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: str | None = None
    ) -> None:
        if isinstance(parser, Parser):
            parser.check_before(values, intermixed=self.nargs != argparse.REMAINDER)
        check_pairs(parser, values)
        setattr(namespace, self.dest, values)


def check_pairs(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with an error if ``words`` are not KEY VALUE pairs."""
    try:
        read_pairs(words)
    except ValueError as error:
        parser.error(str(error))


def check_config(
    parser: argparse.ArgumentParser, args: argparse.Namespace, files: Mapping[str, str] | None = None
) -> None:
    """Exit with an error if a config does not exist. ``files`` maps flags to configs (default: ``--config-file``)."""
    for given_as, file in (files or {"--config-file": args.config_file}).items():
        try:
            configs.locate(file)
        except OSError as error:  # also raised if a name is too long
            parser.error(f"{given_as}: {error}")


def add_allow_pipe(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-pipe``, which permits running the shell commands in shard names that start with ``pipe:``."""
    what = (
        "run shards of the form pipe:COMMAND in a shell; without this flag, such shards are an error (docs/shards.md)"
    )
    parser.add_argument("--allow-pipe", action="store_true", help=what)


def add_training_arguments(parser: argparse.ArgumentParser, eval_only: bool = False) -> None:
    """Add the flags from detectron2's ``train_net.py`` that all training commands support.

    Set ``eval_only`` to also add ``--eval-only``, for commands that can evaluate a model.
    """
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="path to a YAML config file")
    add("--resume", action="store_true", help="resume from the last checkpoint in OUTPUT_DIR")
    add(
        "--num-gpus",
        type=positive(int),
        metavar="N",
        help="number of GPUs per machine, or of processes if MODEL.DEVICE is cpu (default: 1). With torchrun, omit this"
        " flag and the next three",
    )
    add("--num-machines", type=positive(int), metavar="N", help="total number of machines (default: 1)")
    add("--machine-rank", type=int, metavar="R", help="rank of this machine (default: 0)")
    url = "URL for connecting the processes, such as tcp://host:port (default: 'auto', for a single machine)"
    add("--dist-url", help=url)
    add_imports(parser, "a METHOD or an evaluation kind, to import in every process")
    if eval_only:
        what = "only evaluate MODEL.WEIGHTS or, with --resume, the last checkpoint in OUTPUT_DIR"
        add("--eval-only", action="store_true", help=what)
    parser.set_defaults(**LAUNCH_FLAGS)
    add_overrides(parser)


def add_imports(parser: argparse.ArgumentParser, defined: str) -> None:
    """Add ``--import``; ``defined`` completes its help text."""
    what = f"your own Python module, such as one that defines {defined}; may be repeated"
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=what)


def check_training(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error for a missing config, an invalid multi-machine setup, or flags that conflict with torchrun."""
    check_config(parser, args)
    given = [f"--{flag.replace('_', '-')}" for flag, default in LAUNCH_FLAGS.items() if getattr(args, flag) != default]
    if given and "TORCHELASTIC_RUN_ID" in os.environ:  # torch.distributed.is_torchelastic_launched, without torch
        parser.error(
            f"{', '.join(given)} cannot be combined with torchrun, which has already started the processes; pass"
            " --nproc-per-node, --nnodes, --node-rank and --rdzv-endpoint to torchrun instead"
        )
    machines, rank = args.num_machines, args.machine_rank
    if not 0 <= rank < machines:
        parser.error(
            f"--machine-rank {rank} is out of range for --num-machines {machines}; expected a rank from 0 to"
            f" {machines - 1}"
        )
    if machines > 1 and args.dist_url == "auto":
        parser.error(
            f"--num-machines {machines} requires --dist-url; pass the tcp://HOST:PORT of machine 0 on every machine"
        )
