"""The ``mocodet study`` command: check all trials, train the unfinished ones, and tabulate the finished ones."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mocodet.common.commands.table import PROGRAM
from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open, remove_leftovers
from mocodet.common.locks import claim

from .aggregate import aggregate
from .check import check
from .engine import Engine, Interruption, failures
from .live import View
from .placement import Slot, slots, visible_gpus
from .results import RESULTS_FILE, results, write_results
from .spec import DEFAULT_SEEDS, Detector, Init, Study, keep_study, kept_study, paired, read_study
from .tables import FILES, tables

TRAIN_COMMAND = (sys.executable, "-m", "mocodet", "train")
ONLY_DETECTOR = "detector"  # name of the detector if flags define the study


def main(args: argparse.Namespace) -> None:
    """Run the command: train, print the training commands, or collect trials that were trained elsewhere.

    Raises:
        SystemExit: the study is invalid or was interrupted, or a trial failed.
    """
    with errors_in_one_line():
        study, output = asked_for(args)
        if args.print_commands:
            print_commands(study, output, ["--num-gpus", str(args.gpus_per_trial)] if args.gpus_per_trial else [])
            return
        with claim(output, work="runs a study", instead="choose another --output"):
            remove_leftovers(output)
            if args.action == "collect":
                collect(study, output)
                return
            places = slots(visible_gpus(), args.gpus_per_trial, args.jobs)
            try:
                run_study(study, output, places, TRAIN_COMMAND)
            except Interruption as stop:
                print("interrupted; run the same command again to resume from the last checkpoints", file=sys.stderr)
                sys.exit(128 + stop.args[0])


def asked_for(args: argparse.Namespace) -> tuple[Study, Path]:
    """Return the study that the command line specifies by a file, a folder or flags, and the study's output folder.

    Raises:
        FileNotFoundError, ValueError: see `read_study`, `kept_study` and `Study`.
    """
    opts = paired(args.opts)
    if args.study is None:
        output = Path(args.output)
        study = Study(
            name=output.name,
            detectors={ONLY_DETECTOR: Detector()},
            inits={name: Init(config=config, opts=paired(words)) for name, config, words in args.init},
            reference=args.reference,
            seeds=_seeds(args, range(DEFAULT_SEEDS)),
            opts=opts,
        )
        return study, output
    folder = Path(args.study)
    study = kept_study(folder) if folder.is_dir() else read_study(args.study)
    study = study.overridden(opts, seeds=_seeds(args, study.seeds), reference=args.reference or study.reference)
    return study, Path(args.output or (folder if folder.is_dir() else Path("output", study.name)))


def _seeds(args: argparse.Namespace, given: Sequence[int]) -> tuple[int, ...]:
    """Return ``--seeds`` consecutive seeds from ``--first-seed`` on, or ``given`` if neither flag is set."""
    if args.seeds is None and args.first_seed is None:
        return tuple(given)
    first = min(given) if args.first_seed is None else args.first_seed
    return tuple(range(first, first + (args.seeds or len(given))))


def run_study(study: Study, output: Path, places: Sequence[Slot], train_command: Sequence[str]) -> None:
    """Train the unfinished trials of a study, and write ``results.json`` and the tables.

    Args:
        study: the study to run.
        output: output folder of the study, which no other process may use at the same time.
        places: slots for trials.
        train_command: the training command, to which ``--config-file FILE KEY VALUE ...`` is appended.

    Raises:
        ValueError, TimeoutError: see `check`.
        Interruption: a signal was received. The trials keep their checkpoints.
        SystemExit: trials failed. The message lists them, and the other trials are tabulated.
    """
    checked = check(study, output, print)
    keep_study(study, output)
    recipes = {trial: recipe for trial, (recipe, _) in checked.items()}
    states = {trial: state for trial, (_, state) in checked.items()}

    def note() -> None:
        write_results(output, results(study, output, recipes, engine.outcomes, engine.running))

    view = View(study.name, len(checked), len(places), sys.stdout)
    engine = Engine(recipes, states, places, train_command, view, note)
    note()
    try:
        engine.run()
    finally:
        note()
    report(output, results(study, output, recipes, engine.outcomes))
    if failed := failures(engine.outcomes):
        lines = "\n".join(f"  {line}" for line in failed)
        sys.exit(
            f"error: {len(failed)} of {len(checked)} trials failed; run the same command again to retry them\n{lines}"
        )


def collect(study: Study, output: Path) -> None:
    """Record trials that were trained elsewhere and copied to the output folder, and tabulate the finished ones.

    Raises:
        ValueError: folders contain training runs with other recipes.
        SystemExit: not all trials have finished. The message states how many have.
    """
    checked = check(study, output, print, training=False)
    keep_study(study, output)
    recipes = {trial: recipe for trial, (recipe, _) in checked.items()}
    outcomes = {trial: state.outcome for trial, (_, state) in checked.items() if state.outcome}
    content = results(study, output, recipes, outcomes)
    write_results(output, content)
    report(output, content)
    finished = sum(outcome.status == "finished" for outcome in outcomes.values())
    if finished < len(checked):
        sys.exit(f"error: only {finished} of {len(checked)} trials have finished; the others are listed above")


def print_commands(study: Study, output: Path, flags: Sequence[str]) -> None:
    """Print the training commands of all unfinished trials, one per line, for use on other machines.

    A command that is run again resumes from its last checkpoint. The only file that this function writes is
    ``study.json``.

    Raises:
        ValueError: see `check`; or a folder contains a run with another recipe, which the command would resume.
    """
    checked = check(study, output, lambda line: print(line, file=sys.stderr))
    if others := [str(trial.folder) for trial, (_, state) in checked.items() if state.clear or state.aside]:
        raise ValueError(f"training runs with another recipe exist in {', '.join(others)}; remove these folders")
    keep_study(study, output)
    for trial, (_, state) in checked.items():
        if state.status != "finished":
            print(shlex.join([PROGRAM, "train", *flags, "--resume", *trial.words()]))


def report(output: Path, content: Mapping[str, Any]) -> None:
    """Tabulate the finished trials, print the table, and write it in every format."""
    if not any(trial["status"] == "finished" for trial in content["trials"]):
        return
    written = tables(aggregate(content, folder=output))
    for name, table in written.items():
        with atomic_open(output / name, "w", encoding="utf-8") as handle:
            handle.write(table)
    others = ", ".join([*written, RESULTS_FILE])
    print(f"\n{written[FILES['text']]}\nThe table and all values were written to {output}: {others}", flush=True)
