"""How far a trial is, by what its folder holds: waiting, finished or failed."""

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
# Files of a folder in which nothing was trained: ours, the log of a training that was refused, and what was being
# written when its writer was killed.
NO_TRAINING = (RECIPE_FILE, OUTCOME_FILE, LOG_FILE, LOCK_FILE, CLAIM, "log.txt*", ".*.tmp")


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: ``finished`` or ``failed``.
        reason: why it failed; None if it finished.
        metrics: of the last evaluation, in per cent; empty if it failed.
        seconds: that its last start took; None where it was not started here.
        whole: whether that start trained it from beginning to end.
    """

    status: str
    reason: str | None = None
    metrics: Results = field(default_factory=dict)
    seconds: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class State:
    """What is to be done about a trial.

    Attributes:
        status: ``waiting``, ``finished`` or ``failed``. A failed trial is trained again.
        note: the state in words, for a line of the study's beginning.
        outcome: how it ended, if it did.
        clear: whether its folder holds another recipe's training that failed or hardly began, and is to be emptied.
        aside: whether it holds another recipe's training that can still go on, and is to be renamed.
        resume: whether it goes on from a checkpoint.
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
    """Find out how far a trial is. A finished one, or one that nobody here started, of another recipe is a fault.

    Nothing is changed, but that a training which ended with its metrics, unseen by a study, is noted now.

    Raises:
        TimeoutError: a process that an earlier study started does not end.
    """
    folder = trial.folder
    if not folder.is_dir() or not any(folder.iterdir()):
        return State("waiting", "to be trained")
    with undisturbed(folder):
        noted, found = read_outcome(folder), read_recipe(folder)
        empty = all(any(map(path.match, NO_TRAINING)) for path in folder.iterdir())
        if found is None and not empty and not (folder / "config.yaml").is_file():
            return State("waiting", "", fault=f"{folder} is not empty, but holds no training of a study; move it")
        if found is None:
            changes = [] if empty else differences_from_config(folder, recipe, trial.seed)
        else:
            changes = differences(found, recipe)
        outcome = noted
        # One that had failed may since have been trained elsewhere.
        if (noted is None or noted.status == "failed") and (metrics := _metrics(folder)):
            outcome = Outcome("finished", metrics=metrics)
        finished = outcome is not None and outcome.status == "finished"
        if changes and (finished or found is None):
            whose = "finished trial" if finished else "training"
            kept = f"{folder} holds a {whose} of another recipe; move it, or give another --output"
            return State("waiting", "", fault=f"{kept}: {'; '.join(changes)}")
        if outcome and finished:
            if outcome is not noted:
                _write_outcome(folder, outcome)
            return State("finished", "finished", outcome)
    resume = (folder / CHECKPOINT_FILE).is_file()
    if changes:
        other = f"of another recipe: {'; '.join(changes)}"
        if resume and not outcome:
            return State("waiting", f"replaces an unfinished trial, which is kept beside it, {other}", aside=True)
        return State("waiting", f"replaces {'a failed' if outcome else 'an empty'} trial {other}", clear=True)
    again = "goes on from its last checkpoint" if resume else "to be trained"
    if outcome:
        return State("failed", f"{again}; it failed before ({outcome.reason})", outcome, resume=resume)
    return State("waiting", again, resume=resume)


def prepare(trial: Trial, recipe: Recipe, state: State) -> None:
    """Make the folder ready for a start: without another recipe's training, without an old outcome, with the recipe."""
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
    """Return a name beside a trial's folder that is not taken: ``seed_0.replaced``, ``seed_0.replaced_2`` and so on."""
    names = (folder.with_name(f"{folder.name}.replaced{'' if n == 1 else f'_{n}'}") for n in count(1))
    return next(name for name in names if not name.exists())


def conclude(folder: Path, status: int, reason: str, seconds: float, whole: bool) -> Outcome:
    """Judge a training that has ended and note it in its folder.

    Args:
        folder: of the trial.
        status: exit status of its process.
        reason: why it failed, if the status says so.
        seconds: that it took.
        whole: whether it began anew.
    """
    if status:
        outcome = Outcome("failed", reason, seconds=seconds, whole=whole)
    else:
        try:
            outcome = Outcome("finished", metrics=read_metrics(folder), seconds=seconds, whole=whole)
        except (OSError, ValueError) as error:
            outcome = Outcome("failed", f"it ended without a usable result: {error}", seconds=seconds, whole=whole)
    _write_outcome(folder, outcome)
    return outcome


def read_outcome(folder: Path) -> Outcome | None:
    """Read how the trial in a folder ended; None if it did not, or nobody noted it.

    Raises:
        ValueError: the file is not what a study writes there.
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
    raise ValueError(f"{path} is not what a study writes there; remove it, and the trial is looked at anew")


def _write_outcome(folder: Path, outcome: Outcome) -> None:
    write_json(folder / OUTCOME_FILE, vars(outcome))


def _metrics(folder: Path) -> Results | None:
    try:
        return read_metrics(folder)
    except (OSError, ValueError):
        return None


def read_recipe(folder: Path) -> Recipe | None:
    """Read with what recipe the trial in a folder was started; None if no study started it.

    Raises:
        ValueError: the file is not what a study writes there.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    match content:
        case {"config": str(), "settings": dict(), "weights": None | {"path": str(), "sha256": str() | None}}:
            return content
    raise ValueError(f"{path} is not what a study writes there; move the trial's folder, or give another --output")
