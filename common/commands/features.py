"""Arguments that ``mocodet knn`` and ``mocodet linear`` share: what is evaluated, on which images, and how."""

import argparse
from pathlib import Path

from .arguments import positive

PRECISIONS = ("float32", "bfloat16", "float16")


def add_feature_arguments(parser: argparse.ArgumentParser, batch_help: str) -> None:
    """Add them; ``batch_help`` says what a batch is."""
    what = parser.add_argument_group("what is evaluated")
    source = what.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help="file of pre-training (mocodet's .pth, the original .pth.tar), of supervised training, or torchvision's",
    )
    source.add_argument("--random", metavar="ARCH", help="instead: random weights of, for example, resnet18")
    what.add_argument("--prefix", help="what stands before the encoder's names in CHECKPOINT, if it is not recognised")
    what.add_argument("--small-stem", action="store_true", help="with --random: the stem for images of 32 to 64 pixels")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is random (default: 0)")

    data = parser.add_argument_group("data")
    data.add_argument("--train", required=True, metavar="DIR", help="training images, one folder for each class")
    data.add_argument("--val", required=True, metavar="DIR", help="images to be classified, with the same classes")
    for split in ("train", "val"):
        data.add_argument(
            f"--{split}-annotations",
            default="",
            metavar="JSON",
            help=f"iNaturalist's JSON, if --{split} has no class folders; its file names are relative to --{split}",
        )
    data.add_argument(
        "--size",
        type=positive(int),
        default=224,
        metavar="PIXELS",
        help="side of the crop (224); images are resized to 256/224 of it",
    )

    how = parser.add_argument_group("how it is computed")
    how.add_argument("--batch-size", type=positive(int), default=256, metavar="N", help=batch_help)
    how.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode images (0)")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA, or else CPU")
    how.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the backbone; others are quicker (autocast)"
    )
    how.add_argument("--cache", metavar="DIR", help="keep features in this folder; they are computed once for all runs")
    how.add_argument("--half", action="store_true", help="store features in float16, which takes half of the memory")
    how.add_argument("--output", type=Path, metavar="FILE", help="write the results to this file, as JSON")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that say something of what is not given."""
    if args.small_stem and not args.random:
        parser.error("--small-stem goes with --random; a checkpoint's stem is recognised")
    if args.prefix is not None and args.random:
        parser.error("--prefix goes with a checkpoint; --random has no names to recognise")
