"""A study, read from its ``results.json`` and from the folders of its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from mocodet.common.config.yaml_file import read_yaml
from mocodet.common.files import read_json, read_json_lines
from mocodet.common.study.aggregate import KEYS
from mocodet.common.study.results import RESULTS_FILE, VERSION, results_fault
from mocodet.common.study.trials import percent

from .logs import LOG_FILE

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run.

    Attributes:
        detector, init, fraction, seed: detector, initialisation, label fraction and seed, which identify the trial.
        status: finished, failed, running or waiting.
        reason: why the trial failed.
        metrics: metrics of a finished trial, in per cent.
        seconds: duration of the training, if a single process trained the trial from start to end.
        command: command that runs the trial.
        folder: folder of the trial.
    """

    detector: str
    init: str
    fraction: float
    seed: int
    status: str
    reason: str | None
    metrics: Mapping[str, float]
    seconds: float | None
    command: Sequence[str]
    folder: Path

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the trial's log. The result is empty if there is no log."""
        path = self.folder / LOG_FILE
        return read_json_lines(path) if path.is_file() else []

    def config(self) -> dict[str, Any]:
        """Return the config of the training run. The result is empty if the run saved no config."""
        return read_config(self.folder)

    def config_file(self) -> str:
        """Return the config file that the command specifies."""
        words = list(self.command)
        return words[words.index("--config-file") + 1] if "--config-file" in words[:-1] else ""


@dataclass(frozen=True)
class Study:
    """A study, whether or not it has ended.

    Attributes:
        folder: folder of the study.
        content: content of its ``results.json``.
        trials: all planned trials.
    """

    folder: Path
    content: Mapping[str, Any]
    trials: Sequence[Trial]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.content["name"]

    @property
    def reference(self) -> str:
        """The initialisation that the gaps refer to."""
        return self.content["reference"]

    @property
    def inits(self) -> list[str]:
        """The initialisations, the reference first."""
        return sorted(self.content["inits"], key=lambda name: name != self.reference)

    @cached_property
    def groups(self) -> list[tuple[str, float]]:
        """Pairs of detector and label fraction with a finished trial, each of which is one comparison."""
        pairs = [(detector, fraction) for detector in self.content["detectors"] for fraction in self.fractions]
        ended = {(trial.detector, trial.fraction) for trial in self.trials if trial.status == "finished"}
        return [pair for pair in pairs if pair in ended]

    @property
    def fractions(self) -> list[float]:
        """The label fractions, in decreasing order."""
        return sorted(self.content["fractions"], reverse=True)

    def finished(self, detector: str, fraction: float, init: str) -> list[Trial]:
        """Return the finished trials, sorted by seed."""
        asked = (detector, fraction, init, "finished")
        found = [t for t in self.trials if (t.detector, t.fraction, t.init, t.status) == asked]
        return sorted(found, key=lambda trial: trial.seed)

    def metrics(self, detector: str, fraction: float) -> list[str]:
        """Return the metrics of a detector's finished trials, in the order of the tables."""
        found = {key for init in self.inits for t in self.finished(detector, fraction, init) for key in t.metrics}
        return sorted(found, key=KEYS.index)

    def tone(self, init: str) -> int:
        """Return the colour number of an initialisation, which is 0 for the reference."""
        return self.inits.index(init)


def is_study(folder: Path) -> bool:
    """Return whether ``folder`` is the folder of a study."""
    content = read_json(folder / RESULTS_FILE) if (folder / RESULTS_FILE).is_file() else None
    return isinstance(content, dict) and "reference" in content


def read_study(folder: Path) -> Study:
    """Read the study in ``folder``.

    Raises:
        ValueError: ``results.json`` has an unsupported version, or is incomplete.
    """
    path = folder / RESULTS_FILE
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected the results of a study, found a {type(content).__name__}")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {brief(content.get('version'))}, but mocodet supports only version {VERSION}; run the"
            " study's command again to rewrite the file from the existing trials"
        )
    if fault := results_fault(content):
        raise ValueError(f"{path} is damaged: {fault}")
    return Study(folder, content, [_trial(folder, trial) for trial in content["trials"]])


def _trial(folder: Path, content: Mapping[str, Any]) -> Trial:
    """Return a trial from the results, with only those metrics that the tables contain."""
    found = {name: content[name] for name in Trial.__dataclass_fields__}
    metrics = {key: found["metrics"][key] for key in KEYS if key in found["metrics"]}
    return Trial(**{**found, "folder": folder / found["folder"], "metrics": metrics})


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config that a run saved in its folder. The result is empty if there is no config."""
    path = folder / CONFIG_FILE
    found = read_yaml(path)[0] if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def labels(fraction: float) -> str:
    """Return the description of a label fraction."""
    return "all labels" if fraction == 1 else f"{percent(fraction)} % of the labels"
