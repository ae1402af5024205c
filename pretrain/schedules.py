"""Learning-rate schedules of the MoCo recipes, as factors of the base learning rate."""

import math
from bisect import bisect_right
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch.optim.lr_scheduler import LRScheduler

from .methods import METHODS

# Number of warm-up iterations when a contrastive method starts from pre-trained weights (docs/warm_start.md).
WARM_START = 200


def max_iterations(cfg: CfgNode, iterations_per_epoch: int) -> int:
    """Return the length of the run in iterations, from ``SOLVER.MAX_ITER`` or, if it is 0, ``SOLVER.MAX_EPOCHS``."""
    return cfg.SOLVER.MAX_ITER or cfg.SOLVER.MAX_EPOCHS * iterations_per_epoch


def warmup_iterations(cfg: CfgNode) -> int:
    """Return ``SOLVER.WARMUP_ITERS``, with -1 resolved to `WARM_START` iterations or to 0.

    A backbone initialised from ``MODEL.WEIGHTS`` first receives gradients through a new, random contrastive head and
    therefore needs a warm-up. A classifier is fine-tuned at the full rate of its recipe from the first iteration
    (paper, appendix).
    """
    if cfg.SOLVER.WARMUP_ITERS >= 0:
        return cfg.SOLVER.WARMUP_ITERS
    return WARM_START if cfg.MODEL.WEIGHTS and not METHODS[cfg.METHOD].classifies else 0


def lr_multiplier(cfg: CfgNode, iterations_per_epoch: int, iteration: int) -> float:
    """Return the learning-rate factor in the given iteration (from 0), according to ``SOLVER.LR_SCHEDULE``.

    ``step`` (MoCo v1): multiplied by ``GAMMA`` at the start of each epoch in ``STEPS``.
    ``cosine`` (MoCo v2): (1 + cos(pi epoch / epochs)) / 2, a half cosine from 1 to 0, constant within an epoch.
    ``decay`` (MoCo on Instagram-1B, section 4): multiplied by ``GAMMA`` after every ``DECAY_PERIOD`` iterations.

    In the first N = `warmup_iterations`, the factor is also multiplied by 1 / (N + 1), 2 / (N + 1), 3 / (N + 1) …
    """
    warmup = min(1.0, (iteration + 1) / (warmup_iterations(cfg) + 1))
    return warmup * _scheduled(cfg.SOLVER, iterations_per_epoch, iteration)


def _scheduled(solver: CfgNode, iterations_per_epoch: int, iteration: int) -> float:
    epoch = iteration // iterations_per_epoch
    if solver.LR_SCHEDULE == "step":
        return solver.GAMMA ** bisect_right(solver.STEPS, epoch)
    if solver.LR_SCHEDULE == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(epoch, solver.MAX_EPOCHS) / solver.MAX_EPOCHS))
    return solver.GAMMA ** (iteration // solver.DECAY_PERIOD)


class RecipeLR(LRScheduler):
    """Sets the learning rate of each iteration according to ``cfg.SOLVER``. Call ``step`` once per iteration.

    fvcore's schedulers work on the completed fraction of the run with a tolerance of 1e-6, which is a full iteration
    in a run of one million. This scheduler counts iterations instead.
    """

    def __init__(self, cfg: CfgNode, optimizer: torch.optim.Optimizer, iterations_per_epoch: int) -> None:
        self.cfg = cfg
        self.iterations_per_epoch = iterations_per_epoch
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rate of each parameter group."""
        multiplier = lr_multiplier(self.cfg, self.iterations_per_epoch, self.last_epoch)
        return [base_lr * multiplier for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, object]:
        """Return the values that change during a run, under the names of detectron2's ``LRMultiplier``."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the values of `state_dict` and ignore all others, which could overwrite methods of this object."""
        self.last_epoch = state_dict["last_epoch"]
        self.base_lrs = list(state_dict.get("base_lrs", self.base_lrs))
