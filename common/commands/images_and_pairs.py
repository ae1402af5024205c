"""Command lines with IMAGES and KEY VALUE pairs, for the commands that use a trained model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .arguments import check_config, check_pairs

# The top-level keys of a detection config. A test compares them with detectron2's.
SECTIONS = frozenset(
    {"MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "MOCO", "GLOBAL"}
    | {"VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "VIS_PERIOD", "COLLECTIVE_TIMEOUT"}
)


def add_images_and_pairs(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the model, ``images`` (the words before the first config KEY) and ``opts`` (the KEY VALUE pairs)."""
    add = parser.add_argument
    add("images", metavar="IMAGES", nargs="*", help=what)
    pairs = "config keys to override, given as KEY VALUE pairs at the end of the command"
    add("opts", metavar="KEY VALUE", nargs="*", help=pairs)
    config = "config of the trained model, usually OUTPUT_DIR/config.yaml"
    add("--config-file", required=True, metavar="FILE", help=config)
    weights = "checkpoint of the trained model, usually OUTPUT_DIR/model_final.pth"
    add("--weights", required=True, metavar="FILE", help=weights)


def parse_images_and_pairs(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `add_images_and_pairs`; a missing config and a KEY without a VALUE are errors."""
    args = parser.parse_intermixed_args(words)
    given = [*args.images, *args.opts]
    start = next((place for place, word in enumerate(given) if _is_key(word)), len(given))
    args.images, args.opts = given[:start], given[start:]
    check_config(parser, args)
    check_pairs(parser, args.opts)
    return args


def _is_key(word: str) -> bool:
    return word.partition(".")[0] in SECTIONS and not Path(word).exists()
