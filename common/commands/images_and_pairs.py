"""IMAGES and KEY VALUE pairs on one command line, for the commands that use a trained model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .arguments import check_config, check_pairs

# The first words of a detection config's keys; a test compares them with detectron2's.
SECTIONS = frozenset(
    {"MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "MOCO", "GLOBAL"}
    | {"VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "VIS_PERIOD", "COLLECTIVE_TIMEOUT"}
)


def add_images_and_pairs(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the model, ``images`` and ``opts``: the words before the first KEY of a config, and the pairs after."""
    add = parser.add_argument
    add("images", metavar="IMAGES", nargs="*", help=what)
    add(
        "opts", metavar="KEY VALUE", nargs="*", help="config keys to override, given in pairs at the end of the command"
    )
    add("--config-file", required=True, metavar="FILE", help="config of the trained model: OUTPUT_DIR/config.yaml")
    add("--weights", required=True, metavar="FILE", help="its checkpoint: OUTPUT_DIR/model_final.pth")


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
