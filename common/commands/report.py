"""Show the results of a study or a pre-training run on one page, for a browser or a printer.

  mocodet report output/voc_study
  mocodet report output/moco_v2 --output pages/moco_v2 --no-pictures

The page, report.html, contains its charts and pictures and needs no network. For a study, the tables are also written
as Markdown, LaTeX, CSV and JSON.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder to report on, and where the report goes."""
    what = "folder of a study, or OUTPUT_DIR of a pre-training run; it may still be running"
    parser.add_argument("folder", metavar="FOLDER", help=what)
    parser.add_argument("--output", metavar="DIR", help="folder for the report (default: FOLDER)")
    parser.add_argument("--no-pictures", action="store_true", help="show no images of the data sets")
