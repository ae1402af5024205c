"""Show what a study or a pre-training run has found, on one page for a browser or a printer.

  mocodet report output/voc_study
  mocodet report output/moco_v2 --output pages/moco_v2 --no-pictures

The page, report.html, holds its charts and pictures itself and needs no network. Beside that of a study its tables are
written as Markdown, LaTeX, CSV and JSON.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is reported, and where the report goes."""
    what = "folder of a study, or OUTPUT_DIR of a pre-training run; neither needs to have ended"
    parser.add_argument("folder", metavar="FOLDER", help=what)
    parser.add_argument("--output", metavar="DIR", help="folder for the report (default: FOLDER)")
    parser.add_argument("--no-pictures", action="store_true", help="show none of the data sets' images")
