#!/usr/bin/env python
"""Draw how good the features of several runs are: `plot_features.py --output m.png --xlabel m 0.9=run1 0.99=run2 ...`.

Each run is a folder with the results of mocodet knn (knn.json) and mocodet linear (linear.json).
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mocodet.common.errors import errors_in_one_line


def top1(folder: Path) -> tuple[float, float]:
    """Return the kNN top-1 of the largest k and the best linear top-1, in percent, of the results in ``folder``.

    Raises:
        FileNotFoundError: one of the two is not there.
    """
    found = []
    for name, key in (("knn.json", "k"), ("linear.json", "top1")):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there; write it with --output of mocodet {name.split('.')[0]}"
            )
        results = [row for row in json.loads(path.read_text(encoding="utf-8"))["results"] if row["top1"] is not None]
        found.append(max(results, key=lambda row: row[key])["top1"])
    return found[0], found[1]


def pair(text: str) -> tuple[str, str]:
    """Split ``LABEL=VALUE``."""
    label, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected LABEL=VALUE, got {text!r}")
    return label, value


def main() -> None:
    """Draw the runs named on the command line into one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pair, metavar="LABEL=FOLDER", help="label on the axis, folder of a run")
    parser.add_argument("--xlabel", default="", help="what the labels are values of")
    parser.add_argument("--random", type=Path, metavar="FOLDER", help="results of random weights, drawn as lines")
    parser.add_argument(
        "--paper",
        nargs="*",
        default=[],
        type=pair,
        metavar="LABEL=TOP1",
        help="published figures, on an axis of their own",
    )
    parser.add_argument("--output", required=True, type=Path, help="picture to write; its ending chooses the format")
    args = parser.parse_args()
    labels = [label for label, _ in args.runs]
    measured = [top1(Path(folder)) for _, folder in args.runs]
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name, values, colour in zip(("kNN", "linear"), zip(*measured, strict=True), ("C0", "C1"), strict=True):
        axes.plot(labels, values, "o-" if args.xlabel else "o", color=colour, label=name)
    if args.random:
        for value, colour in zip(top1(args.random), ("C0", "C1"), strict=True):
            axes.axhline(value, color=colour, linestyle=":", linewidth=1)
    axes.set(xlabel=args.xlabel, ylabel="top-1, % (dotted: random)" if args.random else "top-1, %")
    handles = list(axes.get_legend_handles_labels()[0])
    if args.paper:
        published = axes.twinx()
        handles += published.plot(
            *zip(*[(k, float(v)) for k, v in args.paper], strict=True), "s--", color="grey", label="paper"
        )
        published.set_ylabel("paper: ImageNet linear top-1, %")
    axes.legend(handles=handles)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
