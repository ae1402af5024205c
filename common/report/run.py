"""The ``mocodet report`` command."""

import argparse
from pathlib import Path

from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open
from mocodet.common.study.aggregate import aggregate
from mocodet.common.study.results import RESULTS_FILE
from mocodet.common.study.tables import tables

from .page import render
from .pretrain import is_run, pretrain_page
from .read import is_study, read_study
from .study import study_page

PAGE = "report.html"


def report(folder: str | Path, output: str | Path | None = None, *, with_images: bool = True) -> list[Path]:
    """Write the report on a study or a pre-training run.

    Args:
        folder: folder of the study, or OUTPUT_DIR of the run.
        output: output folder for the report; by default, ``folder``.
        with_images: whether to include images from the data sets.

    Returns:
        the written files, starting with the page.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder contains neither a study nor a run, no results yet, or a damaged file.
    """
    folder = Path(folder)
    written = []
    for name, content in _contents(folder, with_images).items():
        path = Path(output or folder) / name
        with atomic_open(path, "w", encoding="utf-8") as handle:
            handle.write(content)
        written.append(path)
    return written


def main(args: argparse.Namespace) -> None:
    """Write the report and print the paths of its files."""
    with errors_in_one_line():
        for path in report(args.folder, args.output, with_images=not args.no_pictures):
            print(path)


def _contents(folder: Path, with_images: bool) -> dict[str, str]:
    """Return the contents of the report's files, by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} not found; expected the folder of a study or a pre-training run")
    if is_study(folder):
        study = read_study(folder)
        if not study.groups:
            raise ValueError(f"no trial of the study {folder} has finished yet, so there is nothing to report")
        try:
            rows = aggregate(study.content, folder=folder)
        except ValueError as error:
            raise ValueError(f"{folder / RESULTS_FILE}: {error}") from error
        return {PAGE: render(study_page(study, rows, with_images)), **tables(rows)}
    if is_run(folder):
        return {PAGE: render(pretrain_page(folder, with_images))}
    raise ValueError(
        f"{folder} contains neither a study (results.json with its trials) nor a pre-training run (metrics.json, and"
        " config.yaml with a METHOD); pass the --output of mocodet study or the OUTPUT_DIR of mocodet pretrain"
    )
