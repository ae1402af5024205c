"""``python -m tests.rehearsal.demo_seeds OUTPUT``: runs the demo with ten seeds to test if its result is due to chance.

Each seed has separate data, pre-training and fine-tuning runs in ``OUTPUT/seed_S``, and provides one pair of results,
which are means over its trials. The interval covers the variation of all of these stages, whereas the demo's own
interval covers only fine-tuning. The command skips completed stages, so it can be run again after an interruption. It
prints the table and writes the metrics of all trials to ``OUTPUT/results.json``.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mocodet.common.files import write_json
from mocodet.common.study.aggregate import aggregate
from mocodet.common.study.statistics import in_words, paired_gap

REPOSITORY = Path(__file__).resolve().parents[2]
METRICS = {"AP50": "bbox/AP50", "AP": "bbox/AP", "AP75": "bbox/AP75"}


def main() -> None:
    """Run the demo with each seed, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 (default: 10)")
    parser.add_argument(
        "--trials", type=int, default=3, metavar="N", help="fine-tuning runs per initialisation (default: 3)"
    )
    args = parser.parse_args()
    studies = {}
    for seed in range(args.seeds):
        folder = args.output / f"seed_{seed}"
        demo = [sys.executable, "tools/demo.py", "--output", folder.resolve(), "--seed", seed, "--seeds", args.trials]
        subprocess.run([str(word) for word in demo], cwd=REPOSITORY, check=True)
        studies[seed] = metrics_of(json.loads((folder / "study" / "results.json").read_text(encoding="utf-8")))
    write_json(args.output / "results.json", studies)
    print(f"\n{table(studies)}")


def metrics_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a study's ``results.json`` that `table` uses, which contain no path of the machine."""
    kept = ("detector", "init", "fraction", "seed", "status", "metrics")
    trials = [{key: trial[key] for key in kept} for trial in results["trials"]]
    names = ("reference", "detectors", "inits", "fractions", "seeds")
    return {**{name: results[name] for name in names}, "trials": trials}


def table(studies: Mapping[int, Mapping[str, Any]]) -> str:
    """Return Markdown tables with a line for each seed, the means, and the gaps with their interpretation.

    Args:
        studies: the ``results.json`` of each seed's study.
    """
    values = np.array([_means(results) for results in studies.values()])  # seeds x (random, MoCo) x metrics
    lines = [
        [name, *map("{:.1f}".format, numbers.ravel())]
        for name, numbers in zip([*studies, "mean"], [*values, values.mean(0)], strict=True)
    ]
    titles = ["seed", *(f"{init} {name}" for init in ("random", "MoCo") for name in METRICS)]
    gaps = []
    for name, (random, moco) in zip(METRICS, values.transpose(2, 1, 0).tolist(), strict=True):
        gap = paired_gap(moco, random)
        interval = "" if gap.low is None else f"[{gap.low:+.1f}, {gap.high:+.1f}]"
        gaps.append([name, f"{gap.mean:+.1f}", interval, gap.n, in_words(gap, "MoCo", "random")])
    of_gaps = tabulate(gaps, ["metric", "gap", "95 % interval", "pairs", "in words"], tablefmt="github")
    return f"{tabulate(lines, titles, tablefmt='github', disable_numparse=True)}\n\n{of_gaps}"


def _means(results: Mapping[str, Any]) -> list[list[float]]:
    """Return the metrics of random and MoCo weights as means over the trials of a study."""
    rows = {row.init: row for row in aggregate(results)}
    return [[rows[init].metrics[key].mean for key in METRICS.values()] for init in ("random", "moco")]


if __name__ == "__main__":
    main()
