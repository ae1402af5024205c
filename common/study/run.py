"""The command ``mocodet study``: trials, statistics and table in one go."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mocodet import configs
from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open, write_json

from .aggregate import aggregate
from .report import format_table
from .trials import Init, plan_trials, run_trials

TRAIN_COMMAND = (sys.executable, "-m", "mocodet", "train")


def run_study(
    inits: Mapping[str, Init],
    reference: str,
    seeds: Sequence[int],
    output: str | Path,
    train_command: Sequence[str],
    opts: Sequence[str] = (),
    jobs: int = 1,
) -> str:
    """Run all trials, write ``report.md``, ``report.txt`` and ``results.json`` into ``output``; return the text table.

    ``reference`` must be one of ``inits``.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see :mod:`.trials` and :mod:`.aggregate`.
    """
    trials = plan_trials(inits, seeds, output)
    results = run_trials(trials, train_command, opts, lambda line: print(f"\n=== {line}", flush=True), jobs)
    by_init = {init: [metrics for trial, metrics in results.items() if trial.name == init] for init in inits}
    rows = aggregate(by_init, reference)
    table = format_table(rows)
    for name, content in (("report.txt", table), ("report.md", format_table(rows, markdown=True))):
        with atomic_open(Path(output) / name, "w", encoding="utf-8") as handle:
            handle.write(f"{content}\n")
    write_json(Path(output) / "results.json", {"seeds": list(seeds), "reference": reference, "results": by_init})
    return table


def main(args: argparse.Namespace) -> None:
    """Run the study that the command line asks for, print the table and where the files are."""
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with errors_in_one_line(RuntimeError):
        inits = {name: Init(configs.locate(config), opts) for name, config, opts in args.init}
        table = run_study(inits, args.reference, seeds, args.output, TRAIN_COMMAND, args.opts, args.jobs)
    print(f"\n{table}\n\nTable and all values: {Path(args.output) / 'report.md'}, report.txt, results.json")
