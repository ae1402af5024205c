"""The command ``mocodet costs``."""

import argparse

from mocodet.common.errors import errors_in_one_line
from mocodet.common.launch import merge_config

from ..config import get_cfg, validate
from .count import count_run, time_views
from .report import Assumptions, report


def main(args: argparse.Namespace) -> None:
    """Count what the command line asks for and print the tables."""
    cfg = get_cfg()
    with errors_in_one_line():
        merge_config(cfg, args.config_file, args.opts)
        validate(cfg)
        run = count_run(cfg, args.world_size, args.images, args.classes)
        given = Assumptions(
            peaks=dict(args.peak or [("V100, 16 bits", 125e12)]),
            hours=args.hours,
            link=args.link * 1e9,
            image_bytes=args.image_kbytes * 1e3,
            view_seconds=time_views(cfg, args.time_images) if args.time_images else None,
        )
    print(report(run, given))
