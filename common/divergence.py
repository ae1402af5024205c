"""Detects values that are not finite, both when losses are logged and before a checkpoint is written."""

import math
from collections.abc import Mapping

import torch

from .text import first_few


class DivergenceError(FloatingPointError):
    """Raised when the losses or parameters of a training run are no longer finite.

    Args:
        what: a description of the fault.
        iteration: the iteration, counted from 0, in which or after which the fault was found; None if unknown.
        remedy: what to do, in complete sentences.
    """

    def __init__(self, what: str, iteration: int | None, remedy: str) -> None:
        when = "" if iteration is None else f" at iteration {iteration}"
        super().__init__(f"training diverged{when}: {what}. {remedy}")


def check_losses(losses: Mapping[str, float], iteration: int, remedy: str) -> None:
    """Raise an error if a loss, or a value logged with the losses, is not finite.

    Args:
        losses: the values by name.
        iteration, remedy: see `DivergenceError`.

    Raises:
        DivergenceError: a value is NaN or infinite; the message lists all of them.
    """
    if not all(map(math.isfinite, losses.values())):
        raise DivergenceError(", ".join(f"{name} {value:.4g}" for name, value in losses.items()), iteration, remedy)


def check_state(state: Mapping[str, torch.Tensor], iteration: int | None, remedy: str) -> None:
    """Raise an error if a model has parameters or buffers that are not finite, so that it is not saved.

    The check waits for the device only once, for all tensors together.

    Args:
        state: the state dict of the model.
        iteration, remedy: see `DivergenceError`.

    Raises:
        DivergenceError: a value is NaN or infinite; the message names the first tensors with such values.
    """
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    if not names:
        return
    finite = torch.stack([state[name].isfinite().all() for name in names]).tolist()
    if faulty := [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]:
        raise DivergenceError(
            f"{len(faulty)} of {len(names)} tensors of the model contain values that are not finite"
            f" ({first_few(faulty, 3)}), so no checkpoint is written",
            iteration,
            remedy,
        )
