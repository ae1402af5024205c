"""Checks that a state from a file has the structure that an object expects, and names the element that does not match.

Without these checks, ``load_state_dict`` may raise an unclear error or produce an object that fails some steps later.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .text import first_few

WIDTH = 60  # maximum number of characters of a value in a message
LARGEST = torch.finfo(torch.float32).max
EXPECTED = "expected the state of a run with this config"

# SGD cannot take a step without these numbers; PyTorch has a default for every other option.
SGD_NUMBERS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")

# What a group loads from a file: these numbers, its parameters, and the rate that a schedule multiplies.
NUMBERS = {*SGD_NUMBERS, "initial_lr", "params"}


def take_up(name: str, holder: Any, state: Any, *, finite: bool = True) -> None:
    """Load a state from a file into ``holder``.

    Args:
        name: the name of the state, for messages.
        holder: an SGD optimizer, or an object whose own state has the expected structure.
        state: the state from the file.
        finite: reject momentum that is not finite.

    Raises:
        ValueError: the state has another structure, or ``holder`` rejects it.
    """
    if isinstance(holder, torch.optim.Optimizer):
        fault = _sgd_misfit(state, holder, name, finite)
    else:
        fault = misfit(state, holder.state_dict(), name)
    if fault:
        raise ValueError(f"{fault}; {EXPECTED}")
    try:
        if isinstance(holder, torch.optim.Optimizer):
            _load_sgd(holder, state)
        else:
            holder.load_state_dict(state)
    except ValueError:
        raise
    except Exception as error:  # caused by faults that the comparison does not detect
        raise ValueError(f"{name} cannot be loaded ({type(error).__name__}: {error!s:.200}); {EXPECTED}") from error


def _load_sgd(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Load the numbers of an SGD optimizer from a state, but keep the options of how it computes updates.

    Each momentum buffer is copied, because a file may store one number for many elements. The copy has the memory
    format of the parameter, which the fused update on CUDA requires.
    """
    ways = [{key: group[key] for key in group if key not in NUMBERS} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, way in zip(optimizer.param_groups, ways, strict=True):
        group.update(way)
    for parameter, kept in optimizer.state.items():
        if kept.get("momentum_buffer") is not None:
            kept["momentum_buffer"] = torch.empty_like(parameter).copy_(kept["momentum_buffer"])


def check_pieces(checkpoint: Mapping[str, Any], pieces: Collection[str]) -> None:
    """Check that a checkpoint contains all pieces of a run, and that its trainer records the last iteration.

    Raises:
        ValueError: a piece or the iteration is missing.
    """
    if absent := [name for name in pieces if name not in checkpoint]:
        raise ValueError(f"the checkpoint has no {first_few(absent)}; {EXPECTED}")
    match checkpoint.get("trainer"):
        case {"iteration": int(iteration)} if iteration >= 0:
            pass
        case _ if "trainer" in pieces:
            raise ValueError(f"trainer does not record the last iteration; {EXPECTED}")


def misfit(found: Any, mine: Any, name: str) -> str | None:
    """Return where the structure of ``found`` differs from that of ``mine``, or None if they match.

    Containers are compared element by element, tensors are compared by type and shape, and numbers must be finite. A
    dict may contain keys that ``mine`` lacks, for example from another version. Values that are None or empty in
    ``mine`` may be filled in ``found``.
    """
    if mine is None:
        return None
    if isinstance(mine, Tensor):
        fits = isinstance(found, Tensor) and _sort(found) == _sort(mine)
    elif isinstance(mine, Mapping):
        fits = isinstance(found, Mapping)
    elif isinstance(mine, list | tuple):
        fits = isinstance(found, list | tuple) and (not mine or len(mine) == len(found))
    elif isinstance(mine, bool):
        fits = isinstance(found, bool)
    elif isinstance(mine, str):
        fits = isinstance(found, str) and found.isprintable()
    elif isinstance(mine, int):
        fits = type(found) is int and abs(found) < 1 << 63
    elif isinstance(mine, float):
        limit = LARGEST if type(found) is float else 1 << 53  # nan exceeds any limit
        fits = type(found) in (int, float) and abs(found) <= limit
    else:
        fits = True
    if not fits:
        return f"{name} is {_told(found)}, not {_told(mine)}"
    if isinstance(mine, Mapping):
        pairs = [(found[key], value, f"{name}.{key}") for key, value in mine.items() if key in found]
    elif isinstance(mine, list | tuple) and mine:
        pairs = [(one, other, f"{name}[{n}]") for n, (one, other) in enumerate(zip(found, mine, strict=True))]
    else:
        return None
    return next(filter(None, (misfit(*pair) for pair in pairs)), None)


def _sgd_misfit(found: Any, optimizer: torch.optim.Optimizer, name: str, finite: bool) -> str | None:
    match found:
        case {"state": Mapping(), "param_groups": [*groups]} if all(isinstance(group, Mapping) for group in groups):
            pass
        case _:
            return f"{name} is {_told(found)}, not the state of an optimizer"
    for n, group in enumerate(groups):
        for key in SGD_NUMBERS:
            if fault := misfit(group.get(key), 0.0 if key != "nesterov" else False, f"{name}.param_groups[{n}].{key}"):
                return f"{fault}, as SGD requires"
        for key, option in group.items():
            if key != "params" and not (option is None or type(option) in (bool, int, float)):
                return f"{name}.param_groups[{n}].{key} is {_told(option)}, not an option of SGD"
    mine = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    if fault := misfit([group.get("params") for group in groups], mine, f"{name}'s parameters"):
        return fault
    if [list(group["params"]) for group in groups] != mine:
        return f"{name} refers to other parameters than those of this run"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, state in found["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            return f"{name}.state has a parameter {number!r:.{WIDTH}}, but this run has {len(parameters)}"
        if not isinstance(state, Mapping) or state.keys() - {"momentum_buffer"}:
            return f"{name}.state[{number}] is {_told(state)}, not SGD's momentum_buffer"
        if (buffer := state.get("momentum_buffer")) is not None:
            fault = misfit(buffer, parameters[number].detach(), f"{name}.state[{number}].momentum_buffer")
            if fault:
                return fault
            if finite and not buffer.isfinite().all():
                return f"{name}.state[{number}].momentum_buffer is not finite"
    return None


def _sort(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tuple(tensor.shape), tensor.layout


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}, shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value))!s:.{WIDTH}}" if value else "an empty dict"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.{WIDTH}}"
