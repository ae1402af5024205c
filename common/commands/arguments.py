"""Arguments that several commands have."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mocodet import configs
from mocodet.common.config.pairs import read_pairs
from mocodet.common.formats import MAX_PIXELS

# The flags that describe the processes, with their defaults.
LAUNCH_FLAGS = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}


def positive(kind: type, or_zero: bool = False) -> Callable[[str], Any]:
    """Return a function that parses a positive number of ``kind``, int or float; ``or_zero`` allows 0."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not (number > 0 or (or_zero and number == 0)):
            raise ValueError
        return number

    parse.__name__ = f"{'non-negative' if or_zero else 'positive'} {kind.__name__}"  # argparse shows it
    return parse


def pair(form: str) -> Callable[[str], tuple[str, str]]:
    """Return a function that splits ``NAME=VALUE``, neither part empty; ``form`` describes it in messages."""

    def parse(text: str) -> tuple[str, str]:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
        return name, value

    return parse


def add_max_pixels(add: Callable[..., Any]) -> None:
    """Add ``--max-pixels``, for commands without a config; ``add`` is a parser's ``add_argument``."""
    limit = "refuse images of more pixels, which could exhaust the memory; 0: no limit (default: Pillow's limit)"
    add("--max-pixels", type=positive(int, or_zero=True), default=MAX_PIXELS, metavar="N", help=limit)


def add_overrides(parser: argparse.ArgumentParser, nargs: str = argparse.REMAINDER, keys: str = "config keys") -> None:
    """Add ``opts``, the KEY VALUE pairs that override ``keys``; with ``nargs`` ``"*"`` flags may follow them."""
    what = f"{keys} to override, given in pairs at the end of the command"
    parser.add_argument("opts", metavar="KEY VALUE", nargs=nargs, action=_Pairs, help=what)


class _Pairs(argparse.Action):
    """Refuses words that are not pairs of KEY VALUE, before a flag among them is reported as missing."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: str | None = None
    ) -> None:
        check_pairs(parser, values)
        setattr(namespace, self.dest, values)


def check_pairs(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Refuse words that are not pairs of KEY VALUE."""
    try:
        read_pairs(words)
    except ValueError as error:
        parser.error(str(error))


def check_config(
    parser: argparse.ArgumentParser, args: argparse.Namespace, files: Mapping[str, str] | None = None
) -> None:
    """Refuse a config that does not exist; ``files`` maps flags to configs (default: that of --config-file)."""
    for given_as, file in (files or {"--config-file": args.config_file}).items():
        try:
            configs.locate(file)
        except OSError as error:  # a name may be too long
            parser.error(f"{given_as}: {error}")


def add_allow_pipe(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-pipe``, the consent to run the commands in shard names that begin with ``pipe:``."""
    what = "run shards of the form pipe:COMMAND in a shell; without this flag they are refused (docs/shards.md)"
    parser.add_argument("--allow-pipe", action="store_true", help=what)


def add_training_arguments(parser: argparse.ArgumentParser, eval_only: bool = False) -> None:
    """Add the flags of detectron2's own ``train_net.py`` that all training commands understand.

    ``eval_only``: add ``--eval-only``, too, for commands whose models can be evaluated.
    """
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="path to a YAML config file")
    add("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    add(
        "--num-gpus",
        type=positive(int),
        metavar="N",
        help="GPUs per machine (default: 1); with MODEL.DEVICE cpu, processes. Under torchrun leave out this flag and"
        " the next three",
    )
    add("--num-machines", type=positive(int), metavar="N", help="total number of machines (default: 1)")
    add("--machine-rank", type=int, metavar="R", help="rank of this machine (default: 0)")
    add("--dist-url", help="address where the processes meet, such as tcp://host:port (default: 'auto', this machine)")
    what = "your own module, with a METHOD or an evaluation kind, to import in every process; may be repeated"
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help=what)
    if eval_only:
        what = "evaluate MODEL.WEIGHTS or, with --resume, the last checkpoint in OUTPUT_DIR"
        add("--eval-only", action="store_true", help=what)
    parser.set_defaults(**LAUNCH_FLAGS)
    add_overrides(parser)


def check_training(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a config that does not exist, machines that cannot meet, and flags that contradict torchrun."""
    check_config(parser, args)
    given = [f"--{flag.replace('_', '-')}" for flag, default in LAUNCH_FLAGS.items() if getattr(args, flag) != default]
    if given and "TORCHELASTIC_RUN_ID" in os.environ:  # torch.distributed.is_torchelastic_launched, without torch
        parser.error(
            f"{', '.join(given)} under torchrun, which has already started the processes; leave it out, and give"
            " torchrun --nproc-per-node, --nnodes, --node-rank and --rdzv-endpoint"
        )
    machines, rank = args.num_machines, args.machine_rank
    if not 0 <= rank < machines:
        parser.error(f"--machine-rank {rank} with --num-machines {machines}; expected a rank from 0 to {machines - 1}")
    if machines > 1 and args.dist_url == "auto":
        parser.error(f"--num-machines {machines} without --dist-url; give the same tcp://HOST:PORT of machine 0 on all")
