"""IMAGES and KEY VALUE pairs on one command line, of the commands that use a trained model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .arguments import check_config, check_pairs

# What the keys of a detection config begin with; a test compares them with detectron2's.
SECTIONS = frozenset(
    {"MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "MOCO", "GLOBAL"}
    | {"VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "VIS_PERIOD"}
)


def add_images_and_pairs(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``images`` and ``opts``: the words before the first KEY of a config, and the pairs after."""
    parser.add_argument("images", metavar="IMAGES", nargs="*", help=what)
    pairs = "config keys to override, given in pairs at the end of the command"
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help=pairs)


def parse_images_and_pairs(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command that has `add_images_and_pairs`; refuse a config that does not exist and a KEY without VALUE."""
    args = parser.parse_intermixed_args(words)
    given = [*args.images, *args.opts]
    start = next((place for place, word in enumerate(given) if _is_key(word)), len(given))
    args.images, args.opts = given[:start], given[start:]
    check_config(parser, args)
    check_pairs(parser, args.opts)
    return args


def _is_key(word: str) -> bool:
    return word.partition(".")[0] in SECTIONS and not Path(word).exists()
