"""Arguments shared by ``mocodet knn`` and ``mocodet linear``: the encoder, the images, and the computation."""

import argparse
from pathlib import Path

from .arguments import add_max_pixels, positive

PRECISIONS = ("float32", "bfloat16", "float16")


def add_feature_arguments(parser: argparse.ArgumentParser, batch_help: str) -> None:
    """Add the shared arguments. ``batch_help`` is the help text of ``--batch-size``."""
    what = parser.add_argument_group("encoder")
    source = what.add_mutually_exclusive_group(required=True)
    file = (
        "checkpoint to evaluate: from pre-training (mocodet's .pth or the original .pth.tar), from supervised training,"
        " or from torchvision"
    )
    source.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help=file)
    source.add_argument(
        "--random", metavar="ARCH", help="evaluate random weights of this architecture instead, such as resnet18"
    )
    add = what.add_argument
    add("--prefix", help="prefix of the encoder's parameter names in CHECKPOINT, if they are not recognised")
    add("--small-stem", action="store_true", help="with --random: use the stem for images of 32 to 64 pixels")
    add("--seed", type=int, default=0, metavar="N", help="seed for all random numbers (default: 0)")

    add = parser.add_argument_group("data").add_argument
    add("--train", required=True, metavar="DIR", help="folder of training images, with one subfolder per class")
    add("--val", required=True, metavar="DIR", help="folder of images to classify, with the same classes")
    for split in ("train", "val"):
        relative = (
            f"iNaturalist JSON file, if the images in --{split} are not in class folders; its file names are relative"
            f" to --{split}"
        )
        add(f"--{split}-annotations", default="", metavar="JSON", help=relative)
    side = "side length of the crop (default: 224); images are first resized to 256/224 of this length"
    add("--size", type=positive(int), default=224, metavar="PIXELS", help=side)
    add_max_pixels(add)

    add = parser.add_argument_group("computation").add_argument
    add("--batch-size", type=positive(int), default=256, metavar="N", help=batch_help)
    add(
        "--workers",
        type=positive(int, or_zero=True),
        default=0,
        metavar="N",
        help="number of processes that decode images (default: 0)",
    )
    device = "device to run on (default: auto, which selects CUDA if a GPU is available, and the CPU otherwise)"
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help=device)
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="precision of the backbone (default: float32); the other two use autocast and are faster",
    )
    add("--cache", metavar="DIR", help="cache features in this folder, so that later runs can reuse them")
    add("--half", action="store_true", help="store features in float16, which halves their memory usage")
    add("--output", type=Path, metavar="FILE", help="write the results to this JSON file")


def check_features(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if a flag does not apply to the given weights."""
    if args.small_stem and not args.random:
        parser.error("--small-stem can only be used with --random; the stem of a checkpoint is detected automatically")
    if args.prefix is not None and args.random:
        parser.error("--prefix can only be used with CHECKPOINT; --random does not load a checkpoint")
