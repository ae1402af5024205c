"""Estimate the cost of a pre-training run without data or a GPU, or measure it on this machine.

time and memory on this machine, measured over ten steps:
  mocodet costs --config-file pretrain/toy_moco_v2_R_18.yaml --images 9469 --measure 10 DATA.ROOT my_images

an estimate for other machines:
  mocodet costs --config-file pretrain/moco_v2_R_50_200ep.yaml --world-size 8 --images 1281167

The command prints Markdown tables of FLOPs, time as a function of utilisation, bytes exchanged between processes,
memory, and input. With --measure, it first prints the measured hours, images/s and peak memory. Steps are measured on
images from DATA.ROOT or, if that folder does not exist, on generated images. For a run with W processes, the command
measures a single process with its share of the batch.
"""

import argparse

from .arguments import add_overrides, check_config, pair, positive

check = check_config  # no additional checks


def parse_peak(text: str) -> tuple[str, float]:
    """Parse ``NAME=TFLOPS``, and return the name and the rate in FLOP/s."""
    form = "NAME=TFLOPS, for example 'V100 16 bits=125'"
    name, number = pair(form)(text)
    try:
        return name, positive(float)(number) * 1e12
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe the run and the machines."""
    add, number, count = parser.add_argument, positive(float), positive(int)
    add("--config-file", required=True, metavar="FILE", help="path to a YAML config file for pre-training")
    add("--world-size", type=count, default=1, metavar="W", help="number of processes, one per GPU (default: 1)")
    add("--images", type=count, required=True, metavar="N", help="number of images in the data set")
    classes = 'number of classes, for METHOD "supervised" (default: 1000)'
    add("--classes", type=count, default=1000, metavar="N", help=classes)
    peak = "name and peak TFLOP/s of a GPU; may be repeated (default: 'V100, 16 bits=125')"
    add("--peak", type=parse_peak, action="append", metavar="NAME=TFLOPS", help=peak)
    steps = "number of steps to measure on this machine; use a few dozen if the run has data loader processes"
    add("--measure", type=count, metavar="STEPS", help=steps)
    add(
        "--hours",
        type=number,
        metavar="H",
        help="duration of the run in hours (default: as measured, or estimated at 30%% of the first peak)",
    )
    link = "network bandwidth in GB/s at which each process can send (default: 10)"
    add("--link", type=number, default=10.0, metavar="GBYTES", help=link)
    size = "mean size of an image file in kB (default: 110)"
    add("--image-kbytes", type=number, default=110.0, metavar="KB", help=size)
    add_overrides(parser)
