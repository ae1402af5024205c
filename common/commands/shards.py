"""Write a folder of images to WebDataset shards for pre-training with DATA.SHARDS.

  mocodet shards imagenet/train --output imagenet/shards
  mocodet pretrain --config-file pretrain/moco_v2_R_50_200ep.yaml DATA.ROOT '' DATA.SHARDS imagenet/shards/index.json

A shard is a tar archive, named shard-000000.tar and so on. For each image, it contains the unchanged file under a
number (000000000.jpg) and its original path (000000000.json: {"path": "class/name.jpg"}). The folder is searched
recursively. Each image is decoded once as a check. Images are written in random order, because folders are sorted by
class and training shuffles only within its buffer. index.json is written last. If it is missing, the shards are
incomplete, and running the same command again resumes after the last complete shard.

To count the images in existing shards, from any tool, and write only the index:

  mocodet shards --index 'shards/part-{00000..00099}.tar' --output shards/index.json
  mocodet shards --allow-pipe --index 'pipe:aws s3 cp s3://bucket/{000..999}.tar -' --output index.json

See docs/shards.md.
"""

import argparse
import re

from mocodet.common.cores import available_cores

from .arguments import add_allow_pipe, add_max_pixels, positive


def parse_size(text: str) -> int:
    """Parse a number of bytes such as ``500M``, where K, M and G are powers of 1000."""
    match = re.fullmatch(r"(\d+\.?\d*)([KMG]?)", text.upper())
    size = int(float(match[1]) * 1000 ** ("", "K", "M", "G").index(match[2])) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 500M or 1.5G, got {text!r}")
    return size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the input, the output, and the options for writing shards."""
    add, count = parser.add_argument, positive(int)
    add("root", nargs="?", metavar="FOLDER", help="folder of images, which is searched recursively")
    add("--index", nargs="+", metavar="PATTERN", help="count the images in these shards, and write only the index")
    what = (
        "output folder, which must be new, empty or left by an interrupted run of this command; with --index, the JSON"
        " file to write"
    )
    add("--output", required=True, help=what)
    most = "maximum number of images per shard (default: 10000)"
    add("--images-per-shard", type=count, default=10_000, metavar="N", help=most)
    add(
        "--max-size",
        type=parse_size,
        default=10**9,
        metavar="SIZE",
        help="maximum total size of the images in a shard, in bytes (default: 1G)",
    )
    shrink = "shrink images to this shorter side and save them as JPEG with quality 95; smaller images stay unchanged"
    add("--resize", type=count, default=0, metavar="PX", help=shrink)
    add("--shuffle", action=argparse.BooleanOptionalAction, default=True, help="write images in random order (default)")
    add("--seed", type=int, default=0, help="seed for the random order (default: 0)")
    add_max_pixels(add)
    add(
        "--skip-damaged",
        action="store_true",
        help="skip images that cannot be decoded, and list them (default: exit with an error)",
    )
    add_allow_pipe(parser)
    add(
        "--workers",
        type=count,
        default=available_cores(),
        metavar="N",
        help="number of threads that decode images (default: one per core)",
    )


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error unless the command either writes or counts shards, or if a flag has no effect."""
    if (args.root is None) == (args.index is None):
        parser.error("expected either a FOLDER of images or --index with the names of shards")
    if args.allow_pipe and args.root:
        parser.error("--allow-pipe can only be used with --index, whose patterns may be shell commands")
    writing = ("images_per_shard", "max_size", "resize", "shuffle", "seed", "max_pixels", "skip_damaged")
    if args.index and (given := [name for name in writing if getattr(args, name) != parser.get_default(name)]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        parser.error(f"{flags} cannot be combined with --index, which does not write shards")
