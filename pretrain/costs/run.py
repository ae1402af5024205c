"""The command ``mocodet costs``."""

import argparse

from mocodet.common.config.merge import merge_config
from mocodet.common.errors import errors_in_one_line

from ..config import check_config, get_cfg
from .count import count_run
from .measure import measure_run
from .report import report


def main(args: argparse.Namespace) -> None:
    """Measure and count the costs according to the command line, and print the tables."""
    cfg = get_cfg()
    with errors_in_one_line():
        merge_config(cfg, args.config_file, args.opts)
        check_config(cfg)
        # Measure first, because counting allocates memory itself.
        measured = measure_run(cfg, args.world_size, args.images, args.measure) if args.measure else None
        run = count_run(cfg, args.world_size, args.images, args.classes)
    peaks = dict(args.peak or [("V100, 16 bits", 125e12)])
    print(report(run, peaks, args.hours, args.link * 1e9, args.image_kbytes * 1e3, measured))
