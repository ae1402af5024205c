"""Write the images of a folder to WebDataset shards, for pre-training with DATA.SHARDS.

  mocodet shards imagenet/train --output imagenet/shards
  mocodet pretrain --config-file pretrain/moco_v2_R_50_200ep.yaml DATA.ROOT '' DATA.SHARDS imagenet/shards/index.json

A shard is a tar archive, shard-000000.tar and so on. For each image it holds the file, unchanged, under a number
(000000000.jpg), and its origin (000000000.json: {"path": "class/name.jpg"}). Images are found at any depth, decoded
once as a check, and written in random order: a folder is sorted by class, and training shuffles only within its buffer.
index.json is written last. Without it the shards are incomplete, and the same command resumes after the last whole one.

For existing shards, from any tool, count the images and write the index only:

  mocodet shards --index 'shards/part-{00000..00099}.tar' --output shards/index.json
  mocodet shards --allow-pipe --index 'pipe:aws s3 cp s3://bucket/{000..999}.tar -' --output index.json

See docs/shards.md.
"""

import argparse
import os
import re

from .arguments import add_allow_pipe, add_max_pixels, positive


def parse_size(text: str) -> int:
    """Read a number of bytes such as ``500M``, with K, M or G for powers of a thousand."""
    match = re.fullmatch(r"(\d+\.?\d*)([KMG]?)", text.upper())
    size = int(float(match[1]) * 1000 ** ("", "K", "M", "G").index(match[2])) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 500M or 1.5G, got {text!r}")
    return size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the input, the output, and the size of a shard."""
    add, count = parser.add_argument, positive(int)
    add("root", nargs="?", metavar="FOLDER", help="folder of images, searched to any depth")
    add("--index", nargs="+", metavar="PATTERN", help="count the images of these shards, and write the index only")
    add("--output", required=True, help="folder to write to, new, empty or begun; with --index, a JSON file")
    add("--images-per-shard", type=count, default=10_000, metavar="N", help="most images in a shard (default: 10000)")
    add(
        "--max-size",
        type=parse_size,
        default=10**9,
        metavar="SIZE",
        help="most bytes of images in a shard (default: 1G)",
    )
    shrink = "shrink images to this shorter side and store them as JPEG of quality 95; smaller ones stay unchanged"
    add("--resize", type=count, default=0, metavar="PX", help=shrink)
    add("--shuffle", action=argparse.BooleanOptionalAction, default=True, help="write images in random order (default)")
    add("--seed", type=int, default=0, help="seed of that order (default: 0)")
    add_max_pixels(add)
    add(
        "--skip-damaged",
        action="store_true",
        help="leave out images that cannot be decoded, and name them (default: an error)",
    )
    add_allow_pipe(parser)
    add(
        "--workers",
        type=count,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that decode images (default: one per core)",
    )


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a command that does not either write or count shards, and flags without effect."""
    if (args.root is None) == (args.index is None):
        parser.error("give either a FOLDER of images or --index with the names of shards")
    if args.allow_pipe and args.root:
        parser.error("--allow-pipe goes with --index, whose patterns may be commands; leave it out")
    writing = ("images_per_shard", "max_size", "resize", "shuffle", "seed", "max_pixels", "skip_damaged")
    if args.index and (given := [name for name in writing if getattr(args, name) != parser.get_default(name)]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        parser.error(f"{flags} with --index, which counts shards and writes none; leave it out")
