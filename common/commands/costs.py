"""Estimate what a pre-training run costs, without data and without a GPU, or measure it on this machine.

time and memory on this machine, measured over ten steps:
  mocodet costs --config-file pretrain/toy_moco_v2_R_18.yaml --images 9469 --measure 10 DATA.ROOT my_images

a run on other machines:
  mocodet costs --config-file pretrain/moco_v2_R_50_200ep.yaml --world-size 8 --images 1281167

Prints Markdown tables: FLOPs, time as a function of utilisation, bytes that processes exchange, memory, input. With
--measure, hours, images/s and peak memory come first. Steps are measured on images of DATA.ROOT or, if there is no such
folder, on generated images. For a run of W processes one process is measured, with its share of the batch.
"""

import argparse

from .arguments import add_overrides, check_config, pair, positive

check = check_config  # no additional checks


def parse_peak(text: str) -> tuple[str, float]:
    """Split ``NAME=TFLOPS``; return the name and FLOP/s."""
    form = "NAME=TFLOPS, for example 'V100 16 bits=125'"
    name, number = pair(form)(text)
    try:
        return name, positive(float)(number) * 1e12
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run, and what the tables assume about machines."""
    add, number, count = parser.add_argument, positive(float), positive(int)
    add("--config-file", required=True, metavar="FILE", help="path to a YAML config of pre-training")
    add("--world-size", type=count, default=1, metavar="W", help="processes, one for each GPU (default: 1)")
    add("--images", type=count, required=True, metavar="N", help="images in the data set")
    add("--classes", type=count, default=1000, metavar="N", help='classes, for METHOD "supervised" (default: 1000)')
    peak = "peak of a GPU; may be repeated (default: 'V100, 16 bits=125')"
    add("--peak", type=parse_peak, action="append", metavar="NAME=TFLOPS", help=peak)
    steps = "measure this many steps on this machine; with loader processes take a few dozen"
    add("--measure", type=count, metavar="STEPS", help=steps)
    add(
        "--hours",
        type=number,
        metavar="H",
        help="length of the run (default: as measured, or at 30%% of the first peak)",
    )
    add("--link", type=number, default=10.0, metavar="GBYTES", help="GB/s that each process can send (default: 10)")
    add("--image-kbytes", type=number, default=110.0, metavar="KB", help="mean size of an image file (default: 110)")
    add_overrides(parser)
