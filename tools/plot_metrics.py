#!/usr/bin/env python
"""Draw one quantity of several runs: `plot_metrics.py --key total_loss --output loss.png NAME=run/metrics.json ...`."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mocodet.common.errors import errors_in_one_line


def read_curve(path: Path, key: str) -> tuple[list[int], list[float]]:
    """Return iterations and values of ``key`` in a ``metrics.json`` of detectron2's ``JSONWriter``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no ``key``.
    """
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    points = [(record["iteration"], record[key]) for record in records if key in record]
    if not points:
        names = sorted({name for record in records for name in record})
        raise ValueError(f"{path} has no {key!r}; it has {', '.join(names)}")
    iterations, values = zip(*points, strict=True)
    return list(iterations), list(values)


def main() -> None:
    """Draw the runs named on the command line into one picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=FILE", help="a name for the legend and a metrics.json")
    parser.add_argument("--key", required=True, help="what to draw, for example loss, accuracy or total_loss")
    parser.add_argument("--output", required=True, type=Path, help="picture to write; its ending chooses the format")
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for run in args.runs:
        name, separator, file = run.partition("=")
        if not separator:
            parser.error(f"expected NAME=FILE, got {run!r}")
        axes.plot(*read_curve(Path(file), args.key), label=name, linewidth=1)
    axes.set(xlabel="iteration", ylabel=args.key)
    axes.legend()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
