#!/usr/bin/env python3
"""Generate the built-in data set: VOC layout, COCO JSON with masks, and unlabelled images for pre-training."""

import argparse
import os

from mocodet.common.errors import errors_in_one_line
from mocodet.detection.data.toy import make_toy_data


def main() -> None:
    """Parse the arguments, generate the images, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="output folder, which must be new or empty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--train", type=int, default=40, metavar="N", help="number of labelled training images (default: 40)"
    )
    parser.add_argument(
        "--test", type=int, default=200, metavar="N", help="number of labelled test images (default: 200)"
    )
    parser.add_argument(
        "--unlabelled", type=int, default=10000, metavar="N", help="number of unlabelled images (default: 10000)"
    )
    parser.add_argument(
        "--size", type=int, default=96, metavar="PX", help="side length of the labelled images (default: 96)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of processes (default: one per core)",
    )
    args = vars(parser.parse_args())
    output = args.pop("output")
    with errors_in_one_line():
        summary = make_toy_data(output, **args)
    print(f"{output}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary.items()))


if __name__ == "__main__":
    main()
