"""Published results for the tasks of mocodet's configs, and a check of whether a trial has the same task."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from mocodet import configs
from mocodet.common.nested import look_up

FILE = Path(__file__).with_name("published.yaml")
BATCH = 16  # detectron2's default, for configs that do not set the batch size
# Other keys that change the task -> detectron2's default, and a description of a value.
OTHERWISE = {"MODEL.RESNETS.DEPTH": (50, "a ResNet-{}"), "INPUT.MIN_SIZE_TEST": (800, "test images of {} pixels")}


@dataclass(frozen=True)
class PublishedRow:
    """Published results of one initialisation.

    Attributes:
        init: initialisation, with its pre-training data.
        place: location in the source, such as ``table 2``.
        values: published values by metric, in per cent.
    """

    init: str
    place: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Published:
    """Published results for a trial's task, and a note that lists the sources or explains why results are missing."""

    rows: Sequence[PublishedRow] = ()
    note: str = ""


def published(config_file: str, trained_with: Mapping[str, Any]) -> Published:
    """Return the published results with which a trial can be compared.

    Args:
        config_file: config file of the trial, in any variant.
        trained_with: complete config, as saved by the training run.
    """
    content = _content()
    name = Path(config_file).name.removesuffix(".yaml")
    for task in content["TASKS"]:
        if name == task["CONFIG"] or name.startswith(f"{task['CONFIG']}_"):
            break
    else:
        return Published()
    paper = CfgNode.load_yaml_with_base(str(configs.path(f"{task['CONFIG']}.yaml")))
    if different := _differences(paper, trained_with):
        return Published(
            note=f"Published results for {task['CONFIG']} are omitted, because the settings differ:"
            f" {'; '.join(different)}."
        )
    if not task["ROWS"]:
        return Published(
            note=f"Published results for {task['CONFIG']} are in table 6 of the paper, which mocodet does not include."
        )
    rows = []
    for row in task["ROWS"]:
        pairs = zip(task["KEYS"], row["VALUES"], strict=True)
        rows.append(PublishedRow(row["INIT"], row["PLACE"], {key: value for key, value in pairs if value is not None}))
    sources = dict.fromkeys(content["SOURCES"][row["SOURCE"]] for row in task["ROWS"])
    return Published(rows, f"Sources of the published results: {'; '.join(sources)}.")


def _differences(paper: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Describe how a trial differs from the published setting in data, training length, network and image size."""
    different = []
    for split, what in (("TRAIN", "trained on"), ("TEST", "tested on")):
        theirs, own = (_names(config["DATASETS"][split]) for config in (paper, found))
        if theirs != own:
            different.append(f"the published models were {what} {', '.join(theirs)}, these trials {', '.join(own)}")
    theirs, own = (
        config["SOLVER"]["MAX_ITER"] * config["SOLVER"].get("IMS_PER_BATCH", BATCH) for config in (paper, found)
    )
    if theirs != own:
        different.append(f"the published schedule processes {theirs:,} images, these trials {own:,}")
    for key, (default, words) in OTHERWISE.items():
        there, here = (look_up(config, key) or default for config in (paper, found))
        if there != here:
            different.append(f"the published results use {words.format(there)}, these trials {words.format(here)}")
    if (fraction := found.get("MOCO", {}).get("TRAIN_FRACTION", 1.0)) != 1.0:
        different.append(f"these trials use a fraction of {fraction:.3g} of the labels")
    return different


def _names(value: str | Sequence[str]) -> list[str]:
    """Return the names of data sets, which a config file may contain as a tuple written in a string."""
    return list(ast.literal_eval(value) if isinstance(value, str) else value)


@cache
def _content() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))
