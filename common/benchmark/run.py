"""The command ``mocodet benchmark``: measure the parts that were asked for, and tell of each in a table and in JSON."""

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
    """Keep what is measured from logging."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main(args: argparse.Namespace) -> None:
    """Measure each of ``args.runs`` by the function that it names, its ``does``.

    Such a function takes the parsed arguments and yields the rows of one comparison after the other. They are printed
    as they come, and the JSON file is written anew after each, so that a run that is stopped leaves what it has.
    """
    torch.set_num_threads(args.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()), end="\n\n")
    written = []
    with errors_in_one_line(), quiet():
        for run in args.runs:
            for rows in resolve_name(run.does)(run):
                print(table(rows), flush=True)
                written += [row.as_json() for row in rows]
                if args.json:
                    write_json(args.json, written)
