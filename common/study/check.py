"""Checks of all trials before training starts: config, weights, test set and the contents of the folder."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mocodet import configs
from mocodet.common.config.weights import weights_file
from mocodet.common.text import did_you_mean

from .recipe import Recipe, RecipeBook
from .spec import WEIGHTS_KEY, Study
from .state import State, look
from .trials import Trial, plan

# Reads configs in the same way as training does, in a separate process, because a study does not import detectron2.
CONFIG_COMMAND = (sys.executable, "-m", "mocodet.detection.training.refusals")


def check(
    study: Study, output: Path, announce: Callable[[str], None], *, training: bool = True
) -> dict[Trial, tuple[Recipe, State]]:
    """Check every trial, announce each one in a line, and return the recipe and the state of each.

    Args:
        study: the study to check.
        output: output folder of the study.
        announce: function that is called with each line.
        training: whether unfinished trials will be trained, which requires weights, a test set and a valid config.

    Raises:
        ValueError: trials cannot be trained, or were trained with another recipe. All of them have been announced.
        OSError: the configs cannot be checked.
        TimeoutError: a trial of a killed study is still running.
    """
    book, trials = RecipeBook(), plan(study, output)
    announce(f"{study.name}: {len(trials)} trials in {output}")
    checked: dict[Trial, tuple[Recipe, State]] = {}
    faults: dict[Trial, str] = {}
    for trial in trials:
        try:
            recipe = book.recipe(_existing(trial.config), trial.opts)
            state = look(trial, recipe)
            fault = state.fault
            if training and state.status != "finished":
                fault = fault or _missing_weights(recipe, state) or _no_single_test_set(recipe)
            checked[trial] = recipe, state
        except (FileNotFoundError, ValueError) as error:
            fault = str(error)
        if fault:
            faults[trial] = fault
    if training:
        sound = [trial for trial, (_, state) in checked.items() if trial not in faults and state.status != "finished"]
        faults |= _refused_configs(sound)
    for trial in trials:
        announce(f"  {trial}: {faults.get(trial) or checked[trial][1].note}")
    if faults:
        what = "trained for the reasons above; no trial was started" if training else "collected for the reasons above"
        raise ValueError(f"{len(faults)} of {len(trials)} trials cannot be {what}")
    return checked


def _existing(config: Path) -> Path:
    if not config.is_file():
        known = [str(path.relative_to(configs.ROOT)) for path in configs.ROOT.rglob("*.yaml")]
        raise FileNotFoundError(f"the config {config} does not exist{did_you_mean(config.name, known)}")
    return config


def _missing_weights(recipe: Mapping[str, Any], state: State) -> str | None:
    """Return an error message if the initial weights of a trial are missing."""
    file = weights_file(recipe["weights"]["path"]) if recipe["weights"] else None
    if file is None or file.is_file() or state.resume:
        return None
    return f"{WEIGHTS_KEY} is set to {file}, which does not exist"


def _no_single_test_set(recipe: Mapping[str, Any]) -> str | None:
    """Return an error message unless training will end with the metrics of exactly one data set."""
    names = recipe["settings"].get("DATASETS.TEST")
    if not isinstance(names, list) or len(names) == 1:
        return None
    return f"DATASETS.TEST contains {len(names)} data sets ({', '.join(names)}); a study requires exactly one"


def _refused_configs(trials: Sequence[Trial]) -> dict[Trial, str]:
    """Return the errors in configs that training would reject, such as unknown keys or values of the wrong type."""
    if not trials:
        return {}
    asked = {trial: json.dumps([str(trial.config), *trial.opts.items()]) for trial in trials}
    different = list(dict.fromkeys(asked.values()))
    question = f"[{', '.join(different)}]"
    done = subprocess.run(CONFIG_COMMAND, input=question, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"the configs cannot be checked: {' '.join(done.stderr.splitlines()[-1:])}")
    refusals = dict(zip(different, json.loads(done.stdout.splitlines()[-1]), strict=True))
    return {trial: refusals[text] for trial, text in asked.items() if refusals[text]}
