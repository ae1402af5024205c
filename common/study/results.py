"""``results.json`` of a study: every trial, how it ended, and what it was trained with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mocodet.common.commands.table import PROGRAM
from mocodet.common.files import write_json
from mocodet.common.record import versions

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
        study: what is compared.
        output: its folder.
        recipes: of all trials, in their order.
        outcomes: of the trials that have ended.
        running: trials that run now.

    Returns:
        ``status`` of a trial is ``finished``, ``failed``, ``running`` or ``waiting``; ``folder`` is relative to
        ``output``; ``metrics`` are in per cent; ``weights`` has an entry ``INIT``, or entries ``INIT (DETECTOR)`` where
        detectors start from different weights.
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
                "seconds": outcome.seconds if outcome else None,
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


def write_results(output: Path, content: Mapping[str, Any]) -> None:
    """Write ``results.json`` into the folder of a study."""
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
