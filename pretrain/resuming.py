"""Compares a run that is continued with ``--resume`` with its config."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import holds_checkpoint
from mocodet.common.config.bases import read_settings
from mocodet.common.nested import changes, look_up

from .config import without_effect
from .methods import METHODS
from .methods.shuffle_bn import default_groups

GROUPS = "MODEL.BN_GROUPS"
# Keys that determine the parameters and the queue of a method, and the task that it learns: the views and which images
# share their batch-norm statistics.
FIXED_KEYS = (
    *("METHOD", "MODEL.ARCH", "MODEL.SMALL_STEM", "MODEL.HEAD", "MODEL.DIM", "CONTRAST.QUEUE_SIZE"),
    *("AUGMENTATION.NAME", "AUGMENTATION.CROP_SIZE", "AUGMENTATION.MIN_SCALE", "AUGMENTATION.BLUR_SIGMA"),
    *(GROUPS, "CONTRAST.SHUFFLE_BN"),
)


def check_resumed(cfg: CfgNode) -> None:
    """Check that the run in ``OUTPUT_DIR`` learns the task in ``cfg``, if it has a checkpoint and a config.

    Raises:
        ValueError: the model, the views or the batch-norm groups differ. The message lists the keys with different
            values.
    """
    nothing = without_effect(cfg)
    if different := changes(_earlier(cfg), _with_groups(cfg), [key for key in FIXED_KEYS if key not in nothing]):
        raise ValueError(
            f"--resume: the run in {cfg.OUTPUT_DIR} has other settings, which cannot change during a run ({different});"
            " restore the earlier values of these keys, or choose another OUTPUT_DIR and omit --resume"
        )


def changed_settings(cfg: CfgNode) -> str:
    """List the settings of the method and the solver that differ from those of the run in ``OUTPUT_DIR``."""
    solver = (f"SOLVER.{key}" for key in cfg.SOLVER if not key.startswith("CHECKPOINT"))
    return changes(_earlier(cfg), _with_groups(cfg), [*METHODS[cfg.METHOD].keys, *solver])


def _earlier(cfg: CfgNode) -> Mapping[str, Any]:
    """Return the config of the run in ``OUTPUT_DIR``, which is empty if the run has no checkpoint."""
    file = Path(cfg.OUTPUT_DIR, "config.yaml")
    return _with_groups(read_settings(file).content) if file.is_file() and holds_checkpoint(cfg.OUTPUT_DIR) else {}


def _with_groups(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace a BN_GROUPS of 0 with its meaning. The number of processes is compared elsewhere."""
    if look_up(config, GROUPS) != 0:
        return config
    config = deepcopy(dict(config))
    config["MODEL"]["BN_GROUPS"] = default_groups()
    return config
