"""The command `tools/study.py`: trials, statistics and table in one go."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open

from .aggregate import Results, aggregate
from .report import markdown_table, text_table
from .trials import Init, plan_trials, run_trials


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

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see :mod:`.trials` and :mod:`.aggregate`.
    """
    if reference not in inits:
        raise ValueError(f"the reference {reference!r} is not among the initialisations {', '.join(inits)}")
    trials = plan_trials(inits, seeds, output)
    results = run_trials(trials, train_command, opts, lambda line: print(f"\n=== {line}", flush=True), jobs)
    by_init: dict[str, list[Results]] = {
        init: [metrics for trial, metrics in results.items() if trial.name == init] for init in inits
    }
    rows = aggregate(by_init, reference)
    written = {
        "report.txt": text_table(rows) + "\n",
        "report.md": markdown_table(rows) + "\n",
        "results.json": json.dumps({"seeds": list(seeds), "reference": reference, "results": by_init}, indent=2) + "\n",
    }
    for name, content in written.items():
        with atomic_open(Path(output) / name, "w", encoding="utf-8") as handle:
            handle.write(content)
    return text_table(rows)


def parse_init(argument: str) -> tuple[str, Init]:
    """Split ``NAME=CONFIG[,KEY=VALUE...]``; a VALUE ends at the next comma."""
    first, *rest = argument.split(",")
    pairs = [part.partition("=") for part in (first, *rest)]
    if not all(name and separator for name, separator, _ in pairs) or not pairs[0][2]:
        raise argparse.ArgumentTypeError(f"expected NAME=CONFIG[,KEY=VALUE...], got {argument!r}")
    opts = tuple(word for key, _, value in pairs[1:] for word in (key, value))
    return pairs[0][0], Init(Path(pairs[0][2]), opts)


def main(train_command: Sequence[str], argv: Sequence[str] | None = None) -> None:
    """Parse the command line, run the study with ``train_command``, print the table and where the files are."""
    parser = argparse.ArgumentParser(
        description="Fine-tune the same detector from several initialisations with several seeds and compare them. "
        "Run it again to go on after an interruption."
    )
    parser.add_argument(
        "--init",
        action="append",
        required=True,
        type=parse_init,
        metavar="NAME=CONFIG[,KEY=VALUE...]",
        help="an initialisation's name, its config file and overrides that are its own, such as MODEL.WEIGHTS; "
        "give --init once for each",
    )
    parser.add_argument("--reference", required=True, metavar="NAME", help="the initialisation gaps are measured from")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="trials of each initialisation (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="seeds are S, S+1, ... (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at a time (default: 1)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the trials and the report")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides for all trials")
    args = parser.parse_args(argv)
    inits = dict(args.init)
    if len(inits) != len(args.init):
        parser.error(f"--init names must differ, got {', '.join(name for name, _ in args.init)}")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with errors_in_one_line(RuntimeError):
        table = run_study(inits, args.reference, seeds, args.output, train_command, args.opts, args.jobs)
    print(f"\n{table}\n\nTable and all values: {Path(args.output) / 'report.md'}, report.txt, results.json")
