"""Arguments that ``mocodet knn`` and ``mocodet linear`` share: what is evaluated, on which images, and how."""

import argparse
from pathlib import Path

from .arguments import add_max_pixels, positive

PRECISIONS = ("float32", "bfloat16", "float16")


def add_feature_arguments(parser: argparse.ArgumentParser, batch_help: str) -> None:
    """Add these arguments; ``batch_help`` is the help text of ``--batch-size``."""
    what = parser.add_argument_group("what is evaluated")
    source = what.add_mutually_exclusive_group(required=True)
    file = (
        "checkpoint of pre-training (mocodet's .pth, the original .pth.tar), of supervised training, or of torchvision"
    )
    source.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help=file)
    source.add_argument(
        "--random", metavar="ARCH", help="evaluate random weights instead; ARCH is, for example, resnet18"
    )
    add = what.add_argument
    add("--prefix", help="prefix of the encoder's names in CHECKPOINT, if it is not recognised")
    add("--small-stem", action="store_true", help="with --random: the stem for images of 32 to 64 pixels")
    add("--seed", type=int, default=0, metavar="N", help="seed of all random numbers (default: 0)")

    add = parser.add_argument_group("data").add_argument
    add("--train", required=True, metavar="DIR", help="training images, one folder for each class")
    add("--val", required=True, metavar="DIR", help="images to classify, with the same classes")
    for split in ("train", "val"):
        relative = f"iNaturalist's JSON, if --{split} has no class folders; its file names are relative to --{split}"
        add(f"--{split}-annotations", default="", metavar="JSON", help=relative)
    side = "side of the crop (default: 224); images are resized to 256/224 of it"
    add("--size", type=positive(int), default=224, metavar="PIXELS", help=side)
    add_max_pixels(add)

    add = parser.add_argument_group("computation").add_argument
    add("--batch-size", type=positive(int), default=256, metavar="N", help=batch_help)
    add(
        "--workers",
        type=positive(int, or_zero=True),
        default=0,
        metavar="N",
        help="processes that decode images (default: 0)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is a GPU, else the CPU")
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="precision of the backbone (default: float32); the others are faster (autocast)",
    )
    add("--cache", metavar="DIR", help="keep features in this folder, so that later runs reuse them")
    add("--half", action="store_true", help="store features in float16, which takes half the memory")
    add("--output", type=Path, metavar="FILE", help="write the results to this file, as JSON")


def check_features(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags about weights that are not given."""
    if args.small_stem and not args.random:
        parser.error("--small-stem goes with --random; the stem of a checkpoint is detected")
    if args.prefix is not None and args.random:
        parser.error("--prefix goes with CHECKPOINT; --random reads no checkpoint")
