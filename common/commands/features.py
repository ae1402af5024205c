"""Arguments that ``mocodet knn`` and ``mocodet linear`` share: what is evaluated, on which images, and how."""

import argparse
from pathlib import Path

from .arguments import add_max_pixels, positive

PRECISIONS = ("float32", "bfloat16", "float16")


def add_feature_arguments(parser: argparse.ArgumentParser, batch_help: str) -> None:
    """Add them; ``batch_help`` says what a batch is."""
    what = parser.add_argument_group("what is evaluated")
    source = what.add_mutually_exclusive_group(required=True)
    file = "file of pre-training (mocodet's .pth, the original .pth.tar), of supervised training, or torchvision's"
    source.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help=file)
    source.add_argument("--random", metavar="ARCH", help="instead: random weights of, for example, resnet18")
    add = what.add_argument
    add("--prefix", help="what stands before the encoder's names in CHECKPOINT, if it is not recognised")
    add("--small-stem", action="store_true", help="with --random: the stem for images of 32 to 64 pixels")
    add("--seed", type=int, default=0, metavar="N", help="seed of all that is random (default: 0)")

    add = parser.add_argument_group("data").add_argument
    add("--train", required=True, metavar="DIR", help="training images, one folder for each class")
    add("--val", required=True, metavar="DIR", help="images to be classified, with the same classes")
    for split in ("train", "val"):
        relative = f"iNaturalist's JSON, if --{split} has no class folders; its file names are relative to --{split}"
        add(f"--{split}-annotations", default="", metavar="JSON", help=relative)
    side = "side of the crop (224); images are resized to 256/224 of it"
    add("--size", type=positive(int), default=224, metavar="PIXELS", help=side)
    add_max_pixels(add)

    add = parser.add_argument_group("how it is computed").add_argument
    add("--batch-size", type=positive(int), default=256, metavar="N", help=batch_help)
    add("--workers", type=positive(int, or_zero=True), default=0, metavar="N", help="processes that decode images (0)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA, or else CPU")
    add("--precision", choices=PRECISIONS, default="float32", help="of the backbone; others are quicker (autocast)")
    add("--cache", metavar="DIR", help="keep features in this folder; they are computed once for all runs")
    add("--half", action="store_true", help="store features in float16, which takes half of the memory")
    add("--output", type=Path, metavar="FILE", help="write the results to this file, as JSON")


def check_features(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that say something of what is not given."""
    if args.small_stem and not args.random:
        parser.error("--small-stem goes with --random; a checkpoint's stem is recognised")
    if args.prefix is not None and args.random:
        parser.error("--prefix goes with a checkpoint; --random has no names to recognise")
