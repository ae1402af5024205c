"""Learning-rate schedules of the MoCo recipes, as multipliers of the base rate."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import torch
from detectron2.solver import LRMultiplier
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import ParamScheduler


class EpochCosine(ParamScheduler):
    """Half a cosine from 1 to 0 that holds still within an epoch: (1 + cos(pi epoch / epochs)) / 2 (MoCo v2).

    Args:
        epochs: length of training.
        iterations_per_epoch: optimizer steps in an epoch.
    """

    def __init__(self, epochs: int, iterations_per_epoch: int) -> None:
        self.epochs = epochs
        self.iterations_per_epoch = iterations_per_epoch

    def __call__(self, where: float) -> float:
        """Return the multiplier at ``where``, the share of all iterations that are done (0 to 1)."""
        # `where` is a quotient of integers: rounding gives the iteration back, where flooring could miss it by one.
        iteration = round(where * self.epochs * self.iterations_per_epoch)
        epoch = min(iteration // self.iterations_per_epoch, self.epochs)
        return 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))


class EpochSteps(ParamScheduler):
    """Times ``gamma`` at the start of each of the given epochs (MoCo v1).

    fvcore's ``MultiStepParamScheduler`` compares shares of the run with a tolerance of 1e-6, which is a whole iteration
    when there are a million of them.

    Args:
        epochs: length of training.
        iterations_per_epoch: optimizer steps in an epoch.
        steps: epochs at which the rate drops, in rising order.
        gamma: factor of a drop.
    """

    def __init__(self, epochs: int, iterations_per_epoch: int, steps: Sequence[int], gamma: float) -> None:
        self.max_iter = epochs * iterations_per_epoch
        self.milestones = [step * iterations_per_epoch for step in steps]
        self.gamma = gamma

    def __call__(self, where: float) -> float:
        """Return the multiplier at ``where``, the share of all iterations that are done (0 to 1)."""
        return self.gamma ** bisect_right(self.milestones, round(where * self.max_iter))


class PeriodicDecay(ParamScheduler):
    """Times ``gamma`` after every ``period`` iterations (MoCo on Instagram-1B, section 4).

    Args:
        max_iter: length of training.
        period: iterations between two drops.
        gamma: factor of a drop.
    """

    def __init__(self, max_iter: int, period: int, gamma: float) -> None:
        self.max_iter = max_iter
        self.period = period
        self.gamma = gamma

    def __call__(self, where: float) -> float:
        """Return the multiplier at ``where``, the share of all iterations that are done (0 to 1)."""
        return self.gamma ** (round(where * self.max_iter) // self.period)


def max_iterations(cfg: CfgNode, iterations_per_epoch: int) -> int:
    """Return the length of the run: ``SOLVER.MAX_ITER``, else ``SOLVER.MAX_EPOCHS`` in iterations."""
    return cfg.SOLVER.MAX_ITER or cfg.SOLVER.MAX_EPOCHS * iterations_per_epoch


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer, iterations_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build the schedule of ``cfg.SOLVER``, advanced once an iteration: ``step``, ``cosine`` or ``decay``."""
    epochs = cfg.SOLVER.MAX_EPOCHS
    max_iter = max_iterations(cfg, iterations_per_epoch)
    if cfg.SOLVER.LR_SCHEDULE == "step":
        multiplier = EpochSteps(epochs, iterations_per_epoch, cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA)
    elif cfg.SOLVER.LR_SCHEDULE == "cosine":
        multiplier = EpochCosine(epochs, iterations_per_epoch)
    else:
        multiplier = PeriodicDecay(max_iter, cfg.SOLVER.DECAY_PERIOD, cfg.SOLVER.GAMMA)
    return LRMultiplier(optimizer, multiplier, max_iter)
