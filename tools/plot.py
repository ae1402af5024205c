#!/usr/bin/env python
"""Plot the metrics of multiple runs in one figure.

  plot.py metrics --key total_loss --output loss.png NAME=run/metrics.json ...
  plot.py features --xlabel m --output m.png 0.9=run1 0.99=run2 ...

`features` plots the top-1 accuracies that mocodet knn (knn.json) and mocodet linear (linear.json) wrote to a folder.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from mocodet.common.commands.arguments import pair
from mocodet.common.errors import errors_in_one_line


def read_curve(path: Path, key: str) -> list[tuple[int, float]]:
    """Return the iterations and values of ``key`` in a ``metrics.json`` file written by detectron2's ``JSONWriter``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not contain ``key``.
    """
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    points = [(record["iteration"], record[key]) for record in records if key in record]
    if not points:
        names = sorted({name for record in records for name in record})
        raise ValueError(f"{path} does not contain {key!r}; expected one of {', '.join(names)}")
    return points


def top1(folder: Path) -> tuple[float, float]:
    """Return the kNN top-1 accuracy for the largest k and the best linear top-1 accuracy in ``folder``, in percent.

    Raises:
        FileNotFoundError: one of the two files is missing.
    """
    found = []
    for command, key in (("knn", "k"), ("linear", "top1")):
        path = folder / f"{command}.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; create it with mocodet {command} --output")
        results = [row for row in json.loads(path.read_text(encoding="utf-8"))["results"] if row["top1"] is not None]
        found.append(max(results, key=lambda row: row[key])["top1"])
    return found[0], found[1]


def draw_metrics(axes: Axes, args: argparse.Namespace) -> None:
    """Plot one quantity of each run over its iterations."""
    for name, file in args.runs:
        axes.plot(*zip(*read_curve(Path(file), args.key), strict=True), label=name, linewidth=1)
    axes.set(xlabel="iteration", ylabel=args.key)
    axes.legend()


def draw_features(axes: Axes, args: argparse.Namespace) -> None:
    """Plot the feature accuracies of each run, together with those of random weights and published accuracies."""
    names, folders = zip(*args.runs, strict=True)
    measured = zip(*(top1(Path(folder)) for folder in folders), strict=True)
    for label, values, colour in zip(("kNN", "linear"), measured, ("C0", "C1"), strict=True):
        axes.plot(names, values, "o-" if args.xlabel else "o", color=colour, label=label)
    if args.random:
        for value, colour in zip(top1(args.random), ("C0", "C1"), strict=True):
            axes.axhline(value, color=colour, linestyle=":", linewidth=1)
    axes.set(xlabel=args.xlabel, ylabel="top-1, % (dotted: random)" if args.random else "top-1, %")
    handles = list(axes.get_legend_handles_labels()[0])
    if args.paper:
        places, values = zip(*[(name, float(value)) for name, value in args.paper], strict=True)
        published = axes.twinx()
        handles += published.plot(places, values, "s--", color="grey", label="paper")
        published.set_ylabel("paper: ImageNet linear top-1, %")
    axes.legend(handles=handles)


def main() -> None:
    """Plot the runs given on the command line in one figure."""
    shared = argparse.ArgumentParser(add_help=False)
    form = "NAME=PATH"
    shared.add_argument(
        "runs", nargs="+", type=pair(form), metavar=form, help="name of a run and path of its log or folder"
    )
    shared.add_argument(
        "--output", required=True, type=Path, help="output image file; the extension determines the format"
    )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    metrics = commands.add_parser(
        "metrics", parents=[shared], help="plot one quantity from the metrics.json of each run"
    )
    metrics.add_argument("--key", required=True, help="quantity to plot, for example loss, accuracy or total_loss")
    metrics.set_defaults(draw=draw_metrics)
    features = commands.add_parser("features", parents=[shared], help="plot the feature accuracies of each run")
    features.add_argument(
        "--xlabel", default="", help="label of the horizontal axis, which shows the names of the runs"
    )
    features.add_argument("--random", type=Path, metavar="FOLDER", help="results of random weights, plotted as lines")
    form = "NAME=TOP1"
    features.add_argument(
        "--paper", nargs="*", default=[], type=pair(form), metavar=form, help="published accuracies, on a separate axis"
    )
    features.set_defaults(draw=draw_features)
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    args.draw(axes, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
