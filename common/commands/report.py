"""Write an HTML report on the results of a study or a pre-training run, for viewing or printing.

  mocodet report output/voc_study
  mocodet report output/moco_v2 --output pages/moco_v2 --no-pictures

The report, report.html, embeds all charts and images and requires no network access. For a study, the tables are also
written as Markdown, LaTeX, CSV and JSON.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder to report on, and the options of the report."""
    what = "folder of a study, or OUTPUT_DIR of a pre-training run; the study or run may be in progress"
    parser.add_argument("folder", metavar="FOLDER", help=what)
    parser.add_argument("--output", metavar="DIR", help="output folder for the report (default: FOLDER)")
    parser.add_argument("--no-pictures", action="store_true", help="do not include images from the data sets")
