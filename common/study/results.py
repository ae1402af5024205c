"""The ``results.json`` of a study, which records the outcome and command of every trial, the versions and weights."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from mocodet.common.commands.table import PROGRAM
from mocodet.common.files import write_json
from mocodet.common.record import versions

from .aggregate import is_number
from .recipe import Recipe
from .spec import Study
from .state import Outcome
from .trials import Trial

RESULTS_FILE = "results.json"
VERSION = 2


def results(
    study: Study,
    output: Path,
    recipes: Mapping[Trial, Recipe],
    outcomes: Mapping[Trial, Outcome],
    running: Sequence[Trial] = (),
) -> dict[str, Any]:
    """Return the content of ``results.json``.

    Args:
        study: the study.
        output: output folder of the study.
        recipes: recipes of all trials, in order.
        outcomes: outcomes of the trials that have ended.
        running: trials that are running.

    Returns:
        the content. The ``status`` of a trial is ``finished``, ``failed``, ``running`` or ``waiting``, its ``folder``
        is relative to ``output``, and its ``metrics`` are in per cent. ``weights`` contains an entry ``INIT`` for each
        initialisation or, if its detectors start from different weights, entries ``INIT (DETECTOR)``.
    """
    rows = []
    for trial in recipes:
        outcome = outcomes.get(trial)
        status = outcome.status if outcome else "running" if trial in running else "waiting"
        rows.append(
            {
                "detector": trial.detector,
                "init": trial.init,
                "fraction": trial.fraction,
                "seed": trial.seed,
                "status": status,
                "reason": outcome.reason if outcome else None,
                "folder": trial.folder.relative_to(output).as_posix(),
                "metrics": outcome.metrics if outcome else {},
                "seconds": outcome.seconds if outcome and outcome.whole else None,
                "command": [PROGRAM, "train", *trial.words()],
            }
        )
    return {
        "version": VERSION,
        "name": study.name,
        "reference": study.reference,
        "seeds": list(study.seeds),
        "fractions": list(study.fractions),
        "detectors": list(study.detectors),
        "inits": list(study.inits),
        "trials": rows,
        "versions": versions(),
        "weights": _weights(recipes),
    }


def results_fault(content: Mapping[str, Any]) -> str | None:
    """Return why ``content`` is not a valid ``results.json`` of a study, or None if it is valid."""
    for key, is_one in STUDY_PARTS.items():
        if not is_one(content.get(key)):
            return f"{key} is {brief(content.get(key))}"
    if content["reference"] not in content["inits"]:
        return f"reference {brief(content['reference'])} is not one of inits {brief(content['inits'])}"
    for number, trial in enumerate(content["trials"]):
        for key, is_one in TRIAL_PARTS.items():
            if not isinstance(trial, dict) or key not in trial or not is_one(trial[key]):
                return f"{key} of trial {number} is {brief(trial.get(key) if isinstance(trial, dict) else trial)}"
    present = {(trial["detector"], trial["init"]) for trial in content["trials"]}
    if absent := [pair for pair in product(content["detectors"], content["inits"]) if pair not in present]:
        return f"it contains no trial of {' from '.join(absent[0])}"
    return None


def _each(is_one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_one, value))


def _by_name(is_one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_one, value.values()))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_whole(value: object) -> bool:
    return type(value) is int


# The keys that `results` writes, each with a function that validates the value.
STUDY_PARTS: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "reference": _is_text,
    "seeds": _each(_is_whole),
    "fractions": _each(is_number),
    "detectors": _each(_is_text),
    "inits": _each(_is_text),
    "trials": lambda value: isinstance(value, list),
    "versions": _by_name(_is_text_or_none),
    "weights": _by_name(lambda value: isinstance(value, dict) and _is_text(value.get("path")) and len(value) <= 2),
}
TRIAL_PARTS: dict[str, Callable[[Any], bool]] = {
    "detector": _is_text,
    "init": _is_text,
    "fraction": is_number,
    "seed": _is_whole,
    "status": lambda value: value in ("finished", "failed", "running", "waiting"),
    "reason": _is_text_or_none,
    "folder": _is_text,
    "metrics": _by_name(is_number),
    "seconds": lambda value: value is None or is_number(value),
    "command": _each(_is_text),
}


def write_results(output: Path, content: Mapping[str, Any]) -> None:
    """Write ``results.json`` to the folder of a study."""
    write_json(output / RESULTS_FILE, content)


def _weights(recipes: Mapping[Trial, Recipe]) -> dict[str, dict[str, str | None]]:
    by_init: dict[str, dict[str, dict[str, str | None]]] = {}
    for trial, recipe in recipes.items():
        if recipe["weights"]:
            by_init.setdefault(trial.init, {})[trial.detector] = recipe["weights"]
    named = {}
    for init, by_detector in by_init.items():
        first, *others = by_detector.values()
        if all(weights == first for weights in others):
            named[init] = first
        else:
            named |= {f"{init} ({detector})": weights for detector, weights in by_detector.items()}
    return named
