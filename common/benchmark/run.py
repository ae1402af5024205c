"""The ``mocodet benchmark`` command: run the requested benchmarks, and report the results as tables and JSON."""

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pkgutil import resolve_name

import torch

from ..errors import errors_in_one_line
from ..files import write_json
from .report import machine, table


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the log messages of the measured code."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main(args: argparse.Namespace) -> None:
    """Run each measurement in ``args.runs`` with the function in its ``does``.

    The function takes the parsed arguments and yields the rows of each comparison. Rows are printed immediately, and
    the JSON file is rewritten after each comparison, so that an interrupted run keeps its results.
    """
    torch.set_num_threads(args.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()), end="\n\n")
    written = []
    with errors_in_one_line(), quiet():
        for run in args.runs:
            for rows in resolve_name(run.does)(run):
                print(table(rows), flush=True)
                written += [row.as_json() for row in rows]
                if args.output:
                    write_json(args.output, written)
