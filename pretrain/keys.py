"""Keys of a config with what they mean and which values they may have; the common ones and those of the methods."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode


class Values(NamedTuple):
    """Which values a key may have: how a message calls them, and what tells them."""

    expected: str
    hold: Callable[[Any], bool]


ANY = Values("", lambda value: True)
POSITIVE = Values("a positive number", lambda value: value > 0)
SHARE = Values("a number within [0, 1]", lambda value: 0 <= value <= 1)
FRACTION = Values("within (0, 1]", lambda value: 0 < value <= 1)
RISING = Values("epochs in rising order", lambda value: list(value) == sorted(set(value)))


def at_least(least: int) -> Values:
    """Numbers from ``least`` on."""
    return Values(f"at least {least}", lambda value: value >= least)


def one_of(*choices: str) -> Values:
    """Some words."""
    return Values("one of " + ", ".join(map(repr, choices)), lambda value: value in choices)


@dataclass(frozen=True)
class Key:
    """A key of the config.

    Attributes:
        default: its value where no config sets it; a config's value must have its type.
        meaning: what it is, for people.
        values: those that it may have.
    """

    default: Any
    meaning: str
    values: Values = ANY


def value_of(cfg: CfgNode, name: str) -> Any:
    """Return the value of the key ``name``, such as ``SOLVER.BASE_LR``."""
    return reduce(CfgNode.__getitem__, name.split("."), cfg)


def check_value(good: bool, name: str, found: object, expected: str) -> None:
    """Raise ``ValueError``, which names key, value and what was expected, unless ``good``."""
    if not good:
        raise ValueError(f"{name} is {found!r}; expected {expected}")
