"""The state of a trial (waiting, finished or failed), determined from the files in its folder."""

import shutil
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from mocodet.common.files import read_json, write_json
from mocodet.common.locks import CLAIM

from .aggregate import KEYS, Results, is_number, read_metrics
from .process import LOCK_FILE, LOG_FILE, undisturbed
from .recipe import Recipe, differences, differences_from_config
from .trials import Trial

RECIPE_FILE = "trial.json"
OUTCOME_FILE = "outcome.json"
CHECKPOINT_FILE = "last_checkpoint"
# Files that a folder without a training run may contain: those of a study, the log of a training run that was rejected,
# and temporary files of a killed process.
NO_TRAINING = (RECIPE_FILE, OUTCOME_FILE, LOG_FILE, LOCK_FILE, CLAIM, "log.txt*", ".*.tmp")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial that has ended.

    Attributes:
        status: ``finished`` or ``failed``.
        reason: why the trial failed; None if it finished.
        metrics: metrics of the last evaluation, in per cent; empty if the trial failed.
        seconds: duration of the last training process; None if the trial was trained elsewhere.
        whole: whether that process trained the trial from beginning to end.
    """

    status: str
    reason: str | None = None
    metrics: Results = field(default_factory=dict)
    seconds: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class State:
    """The state of a trial, and the actions that it requires.

    Attributes:
        status: ``waiting``, ``finished`` or ``failed``. A failed trial is trained again.
        note: description of the state for the list of trials at the start of a study.
        outcome: outcome of the trial, if it has ended.
        clear: whether to empty the folder, because it contains a failed or empty run with another recipe.
        aside: whether to rename the folder, because it contains a run with another recipe that can still be resumed.
        resume: whether to resume from a checkpoint.
        fault: why the study cannot use this folder; None if it can.
    """

    status: str
    note: str
    outcome: Outcome | None = None
    clear: bool = False
    aside: bool = False
    resume: bool = False
    fault: str | None = None


def look(trial: Trial, recipe: Recipe) -> State:
    """Determine the state of a trial.

    A run with another recipe is a fault if it has finished or if no study started it. This function does not change the
    folder, except that it records the outcome of a finished run that no study has recorded yet.

    Raises:
        TimeoutError: a process that an earlier study started does not end in time.
    """
    folder = trial.folder
    if not folder.is_dir() or not any(folder.iterdir()):
        return State("waiting", "to be trained")
    with undisturbed(folder):
        noted, found = read_outcome(folder), read_recipe(folder)
        empty = all(any(map(path.match, NO_TRAINING)) for path in folder.iterdir())
        if found is None and not empty and not (folder / "config.yaml").is_file():
            return State(
                "waiting", "", fault=f"{folder} is not empty, but contains no training run of a study; move it"
            )
        if found is None:
            changes = [] if empty else differences_from_config(folder, recipe, trial.seed)
        else:
            changes = differences(found, recipe)
        outcome = noted
        # A failed trial may since have been trained elsewhere.
        if (noted is None or noted.status == "failed") and (metrics := _metrics(folder)):
            outcome = Outcome("finished", metrics=metrics)
        finished = outcome is not None and outcome.status == "finished"
        if changes and (finished or found is None):
            whose = "finished trial" if finished else "training run"
            kept = f"{folder} contains a {whose} with another recipe; move it, or choose another --output"
            return State("waiting", "", fault=f"{kept}: {'; '.join(changes)}")
        if outcome and finished:
            if outcome is not noted:
                _write_outcome(folder, outcome)
            return State("finished", "finished", outcome)
    resume = (folder / CHECKPOINT_FILE).is_file()
    if changes:
        other = f"that has another recipe: {'; '.join(changes)}"
        if resume and not outcome:
            return State("waiting", f"replaces an unfinished trial (kept in a renamed folder) {other}", aside=True)
        return State("waiting", f"replaces {'a failed' if outcome else 'an empty'} trial {other}", clear=True)
    again = "resumes from its last checkpoint" if resume else "to be trained"
    if outcome:
        return State("failed", f"{again} after an earlier failure ({outcome.reason})", outcome, resume=resume)
    return State("waiting", again, resume=resume)


def prepare(trial: Trial, recipe: Recipe, state: State) -> None:
    """Prepare the folder for training: remove a run with another recipe and any old outcome, and write the recipe."""
    if state.aside:
        trial.folder.rename(_free_name(trial.folder))
    trial.folder.mkdir(parents=True, exist_ok=True)
    with undisturbed(trial.folder):
        if state.clear:
            for path in trial.folder.iterdir():
                if path.name == LOCK_FILE:
                    continue
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (trial.folder / OUTCOME_FILE).unlink(missing_ok=True)
        write_json(trial.folder / RECIPE_FILE, recipe)


def _free_name(folder: Path) -> Path:
    """Return an unused name next to a trial's folder: ``seed_0.replaced``, ``seed_0.replaced_2`` and so on."""
    names = (folder.with_name(f"{folder.name}.replaced{'' if n == 1 else f'_{n}'}") for n in count(1))
    return next(name for name in names if not name.exists())


def conclude(folder: Path, status: int, reason: str, seconds: float, whole: bool) -> Outcome:
    """Determine the outcome of a training process that has ended, and record it in the trial's folder.

    Args:
        folder: folder of the trial.
        status: exit status of the process.
        reason: why the process failed, if the status is not 0.
        seconds: duration of the process.
        whole: whether the process started training from scratch.
    """
    if status:
        outcome = Outcome("failed", reason, seconds=seconds, whole=whole)
    else:
        try:
            outcome = Outcome("finished", metrics=read_metrics(folder), seconds=seconds, whole=whole)
        except (OSError, ValueError) as error:
            outcome = Outcome(
                "failed", f"training ended without a usable result: {error}", seconds=seconds, whole=whole
            )
    _write_outcome(folder, outcome)
    return outcome


def read_outcome(folder: Path) -> Outcome | None:
    """Read the outcome of the trial in a folder, or return None if no outcome is recorded.

    Raises:
        ValueError: the file does not contain a valid outcome.
    """
    path = folder / OUTCOME_FILE
    if not path.is_file():
        return None
    match read_json(path):
        case {
            "status": "finished" | "failed" as status,
            "reason": str() | None as reason,
            "metrics": dict(metrics),
            "seconds": float() | int() | None as seconds,
            "whole": bool(whole),
        } if all(key in KEYS and is_number(value) for key, value in metrics.items()) and (
            seconds is None or is_number(seconds)
        ):
            return Outcome(status, reason, metrics, seconds, whole)
    raise ValueError(f"{path} does not contain a valid outcome; delete it to have the outcome determined again")


def _write_outcome(folder: Path, outcome: Outcome) -> None:
    write_json(folder / OUTCOME_FILE, vars(outcome))


def _metrics(folder: Path) -> Results | None:
    try:
        return read_metrics(folder)
    except (OSError, ValueError):
        return None


def read_recipe(folder: Path) -> Recipe | None:
    """Read the recipe that the trial in a folder was started with, or return None if no study started it.

    Raises:
        ValueError: the file does not contain a valid recipe.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    match content:
        case {"config": str(), "settings": dict(), "weights": None | {"path": str(), "sha256": str() | None}}:
            return content
    raise ValueError(f"{path} does not contain a valid recipe; move the trial's folder, or choose another --output")
