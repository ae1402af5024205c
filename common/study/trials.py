"""Run the same fine-tuning from several initialisations and seeds, one trial after another, in a way that resumes."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fvcore.common.config import CfgNode

from mocodet.common.cores import threads_for_each
from mocodet.common.files import write_json
from mocodet.common.progress import duration

from .aggregate import Results, read_metrics

RESULT_FILE = "result.json"
RECIPE_FILE = "trial.json"
CHECKPOINT_FILE = "last_checkpoint"
WEIGHTS_KEY = "MODEL.WEIGHTS"
OWN_KEYS = ("OUTPUT_DIR", "SEED")  # what distinguishes trials is not for the user to override


@dataclass(frozen=True)
class Init:
    """Where a detector starts from: a config file, and overrides of it that the other initialisations do not share."""

    config_file: Path
    opts: tuple[str, ...] = ()  # KEY, VALUE, KEY, VALUE, ...


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run: an initialisation, by name, and a seed."""

    name: str
    init: Init
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def plan_trials(inits: Mapping[str, Init], seeds: Sequence[int], output: str | Path) -> list[Trial]:
    """List the trials of a study, seed by seed, so that an early stop leaves complete comparisons.

    Args:
        inits: the initialisations by name.
        seeds: the seeds that every initialisation is run with.
        output: folder of the study; trial folders are ``output/<init>/seed_<seed>``.

    Raises:
        ValueError: no initialisation or seed, a repeated or negative seed, or a name that cannot be a folder's.
        FileNotFoundError: a config file does not exist.
    """
    if not inits or not seeds:
        raise ValueError(f"a study needs at least one initialisation and one seed, got {list(inits)} and {list(seeds)}")
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be different and not negative, got {list(seeds)}")
    for name, init in inits.items():
        if not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", name):
            raise ValueError(f"{name!r} cannot name an initialisation: use letters, digits and _ . + - only")
        if not init.config_file.is_file():
            raise FileNotFoundError(f"no config file {init.config_file} for the initialisation {name!r}")
    return [
        Trial(name, init, seed, Path(output) / name / f"seed_{seed}") for seed in seeds for name, init in inits.items()
    ]


def run_trials(
    trials: Sequence[Trial],
    train_command: Sequence[str],
    opts: Sequence[str] = (),
    announce: Callable[[str], None] = print,
    jobs: int = 1,
) -> dict[Trial, Results]:
    """Run what is left to run of ``trials`` and return the final metrics of all of them.

    A trial whose result file exists is not run again; one that was interrupted goes on from its last checkpoint. A
    folder that holds a trial of another recipe (config, weights, overrides or command) is refused rather than mixed in.

    Args:
        trials: from :func:`plan_trials`.
        train_command: the training command, to which ``--config-file FILE [--resume] KEY VALUE ...`` is appended.
        opts: config overrides ``KEY, VALUE, ...`` that all trials share.
        announce: called with one line for each trial before it starts or is skipped. Once a trial has been trained, the
            line says how long the study will still take.
        jobs: trials at a time. With more than one the CPU's cores are divided between them, and each line of their
            output is told apart by the trial's name.

    Raises:
        ValueError: no job, bad overrides, a folder with another recipe, or metrics that are missing or not finite.
        RuntimeError: a training command failed; the message names the trial.
    """
    recipes = {trial: _recipe(trial, train_command, opts) for trial in trials}
    for trial, recipe in recipes.items():
        _check_recipe(trial, recipe)
    if jobs < 1:
        raise ValueError(f"a study needs at least one job, got {jobs}")

    failed = threading.Event()
    durations: list[float] = []  # of the trials that this run trained from beginning to end, in seconds

    def finish(number: int, trial: Trial) -> None:
        if failed.is_set():  # what runs may end, what waits does not begin
            return
        label = f"trial {number} of {len(trials)}: {trial}"
        waiting = sum(not (other.folder / RESULT_FILE).is_file() for other in trials)  # this one and what runs included
        if (trial.folder / RESULT_FILE).is_file():
            announce(f"{label}: already finished")
            return
        left = f"; about {duration(fmean(durations) * max(1, waiting / jobs))} left" if durations else ""
        announce(f"{label}: training in {trial.folder}{left}")
        resumed = (trial.folder / CHECKPOINT_FILE).is_file()
        began = time.monotonic()
        try:
            _run(trial, recipes[trial], train_command, jobs)
        except BaseException:
            failed.set()
            raise
        if not resumed:
            durations.append(time.monotonic() - began)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(finish, range(1, len(trials) + 1), trials))
    return {trial: json.loads((trial.folder / RESULT_FILE).read_text(encoding="utf-8")) for trial in trials}


def _recipe(trial: Trial, train_command: Sequence[str], shared_opts: Sequence[str]) -> dict[str, Any]:
    """Say what the trial does, with digests of config and weights, so that changed contents are noticed."""
    opts = [*shared_opts, *trial.init.opts]
    if len(shared_opts) % 2 or len(opts) % 2:
        raise ValueError(f"overrides must come in pairs KEY VALUE, got {opts}")
    if taken := sorted(set(OWN_KEYS) & set(opts[::2])):
        raise ValueError(f"{', '.join(taken)} differs from trial to trial and is set by the study; leave it out")
    config = CfgNode.load_yaml_with_base(str(trial.init.config_file))
    weights = dict(zip(opts[::2], opts[1::2], strict=True)).get(WEIGHTS_KEY, config.get("MODEL", {}).get("WEIGHTS", ""))
    file = Path(weights.removeprefix("moco://"))  # which may name a file, too
    return {
        "init": trial.name,
        "seed": trial.seed,
        "config_file": str(trial.init.config_file),
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
        "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
        # Which interpreter runs the command is no part of the recipe.
        "command": [word for word in train_command if word != sys.executable],
        "opts": opts,
    }


def _check_recipe(trial: Trial, recipe: Mapping[str, Any]) -> None:
    path = trial.folder / RECIPE_FILE
    if not path.is_file():
        if trial.folder.exists() and any(trial.folder.iterdir()):
            raise ValueError(f"{trial.folder} is not empty but holds no {RECIPE_FILE}, so no trial of a study; move it")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in recipe if found.get(key) != recipe[key]]
    if different:
        changes = "; ".join(f"{key}: {found.get(key)} there, {recipe[key]} now" for key in different)
        raise ValueError(f"{trial.folder} holds a trial of another recipe ({changes}); remove it or change the output")


def _run(trial: Trial, recipe: Mapping[str, Any], train_command: Sequence[str], jobs: int) -> None:
    write_json(trial.folder / RECIPE_FILE, recipe)
    command = [*train_command, "--config-file", recipe["config_file"]]
    if (trial.folder / CHECKPOINT_FILE).is_file():
        command.append("--resume")
    command += [*recipe["opts"], "OUTPUT_DIR", str(trial.folder), "SEED", str(trial.seed)]
    if jobs == 1:
        status = subprocess.run(command, check=False).returncode
    else:
        status = _call_beside_others(command, str(trial), jobs)
    if status:
        raise RuntimeError(f"trial {trial} failed: exit status {status} of `{' '.join(command)}`; nothing is averaged")
    try:
        metrics = read_metrics(trial.folder)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"trial {trial} ended without a usable result: {error}") from error
    write_json(trial.folder / RESULT_FILE, metrics)


def _call_beside_others(command: Sequence[str], name: str, jobs: int) -> int:
    """Run ``command`` on its share of the cores, ``name`` before each line that it prints; return its exit status."""
    environment = {"OMP_NUM_THREADS": str(threads_for_each(jobs)), **os.environ}
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=joined, text=True, errors="replace") as process:
        for line in process.stdout or ():
            print(f"[{name}] {line}", end="", flush=True)
    return process.returncode
