"""Recipes of trials, which contain all settings that affect the result, and descriptions of how two recipes differ."""

import ast
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mocodet.common.config.bases import read_settings
from mocodet.common.config.merge import flow
from mocodet.common.config.weights import weights_file

Recipe = dict[str, Any]  # {"config": file, "settings": {key: value}, "weights": {"path", "sha256"} or None}

WIDTH = 60  # maximum length of a value in a message, in characters
ABSENT = object()

# Settings that do not affect the results, so that users can change them and resume.
WITHOUT_EFFECT = (
    *("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "VIS_PERIOD", "COLLECTIVE_TIMEOUT"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINTS_KEPT", "SOLVER.CHECKPOINTS_KEPT_EVERY"),
)
# Settings that training computes from the number of passes or of processes before it saves its config. It also computes
# the checkpoint period, which is in WITHOUT_EFFECT.
TIMED = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "TEST.EVAL_PERIOD")
SCHEDULED_BY = {
    "MOCO.PASSES": TIMED,
    "SOLVER.REFERENCE_WORLD_SIZE": (
        *TIMED,
        *("SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "TEST.PRECISE_BN.NUM_ITER", "SOLVER.REFERENCE_WORLD_SIZE"),
    ),
}

DATASETS = "MOCO.DATASETS"  # a list of mappings, for which a single mapping may be given

# Settings that a study omits if it uses all labels and the config's schedule.
ALL_LABELS = {"MOCO.TRAIN_FRACTION": 1.0, "MOCO.PASSES": 0}


class RecipeBook:
    """Creates the recipes of trials. Config and weights files that trials share are read only once."""

    def __init__(self) -> None:
        self._settings = cache(_config_settings)
        self._digest = cache(_sha256)

    def recipe(self, config: Path, opts: Mapping[str, str]) -> Recipe:
        """Return the settings of a training run, except its output folder, and the digest of its weights.

        Args:
            config: config file of the run. Only settings in this file and its bases are considered.
            opts: overrides, as strings.

        Raises:
            ValueError: the config or one of its bases is not a YAML mapping, or a base does not exist.
        """
        settings = {**self._settings(config), **{key: _value(key, value) for key, value in opts.items()}}
        settings.pop("OUTPUT_DIR", None)
        weights = str(settings.get("MODEL.WEIGHTS") or "")
        file = weights_file(weights)
        digest = self._digest(file) if file and file.is_file() else None
        return {
            "config": str(config),
            "settings": settings,
            "weights": {"path": weights, "sha256": digest} if weights else None,
        }


def differences(found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe how the recipe ``found`` differs from the recipe ``now``. The result is empty if they are equal.

    Weights are compared by content if both digests are known, because a file may have been moved or deleted.
    """
    changes = _different_settings(found["settings"], now["settings"])
    old, new = (recipe["weights"] or {} for recipe in (found, now))
    if old.get("sha256") and new.get("sha256"):
        renamed = changes.pop("MODEL.WEIGHTS", None)
        if old["sha256"] != new["sha256"]:
            changes["MODEL.WEIGHTS"] = renamed or f"the contents of {new['path']} have changed"
    return list(changes.values())


def differences_from_config(folder: Path, now: Mapping[str, Any], seed: int) -> list[str]:
    """Describe how the run whose ``config.yaml`` is in ``folder`` differs from a recipe; empty if they are equal.

    This function compares runs that no study started in this folder, for which the contents of the weights are unknown.
    If the recipe does not set the label fraction and the schedule, the run must use all labels and the config's
    schedule.

    Raises:
        ValueError: the file is not a YAML mapping.
    """
    path = folder / "config.yaml"
    saved = _config_settings(path)
    defaults = {
        key: value for key, value in ALL_LABELS.items() if key in saved
    }  # configs of older runs lack these keys
    wanted = {**defaults, **now["settings"], "SEED": seed}
    computed = {name for key, names in SCHEDULED_BY.items() if wanted.get(key) for name in names}
    keys = [key for key in wanted if key not in computed]
    missing = {key: saved[key] for key in keys if key in saved}
    return list(_different_settings(missing, {key: wanted[key] for key in keys}).values())


def plain(value: Any) -> Any:
    """Convert a value to JSON types as training reads it: text is a literal or YAML list, tuples become lists."""
    if isinstance(value, str):
        try:
            return plain(ast.literal_eval(value)) if value else value
        except (ValueError, SyntaxError):
            meant = flow(value) if value[:1] in ("[", "{") else value
            return meant if isinstance(meant, str) else plain(meant)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _config_settings(config: Path) -> dict[str, Any]:
    return _flat(read_settings(config).content)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a nested config as a flat mapping from full keys to values."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        is_group = isinstance(value, Mapping) and name != DATASETS
        settings |= _flat(value, f"{name}.") if is_group else {name: _value(name, value)}
    return settings


def _value(key: str, value: Any) -> Any:
    found = plain(value)
    return [found] if key == DATASETS and isinstance(found, Mapping) else found


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _different_settings(found: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return a description of each key that differs, except keys that do not affect the results."""
    words = {}
    for key in dict.fromkeys([*now, *found]):
        there, here = found.get(key, ABSENT), now.get(key, ABSENT)
        if there != here and key not in WITHOUT_EFFECT:
            words[key] = f"{key} was {_shown(there, here)} and is now {_shown(here, there)}"
    return words


def _shown(value: object, other: object) -> str:
    """Format a value. If it is long, show only the part that differs from the other value."""
    if value is ABSENT:
        return "not set"
    text, beside = str(value), str(other)
    if len(text) <= WIDTH:
        return text or "''"
    same = next((n for n, (a, b) in enumerate(zip(text, beside, strict=False)) if a != b), min(len(text), len(beside)))
    start = min(max(0, same - WIDTH // 3), len(text) - WIDTH)
    end = start + WIDTH
    return f"{'…' * (start > 0)}{text[start:end]}{'…' * (end < len(text))}"
