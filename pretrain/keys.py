"""Declarations of config keys: their defaults, descriptions and permitted values."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode


class Values(NamedTuple):
    """The permitted values of a key: a description for messages, and a function that tests a value."""

    expected: str
    hold: Callable[[Any], bool]


ANY = Values("", lambda value: True)
POSITIVE = Values("a positive number", lambda value: value > 0)
SHARE = Values("a number within [0, 1]", lambda value: 0 <= value <= 1)
FRACTION = Values("within (0, 1]", lambda value: 0 < value <= 1)
RISING = Values("epochs in increasing order", lambda value: list(value) == sorted(set(value)))


def at_least(least: float) -> Values:
    """Permit numbers that are not smaller than ``least``."""
    return Values(f"at least {least}", lambda value: value >= least)


def one_of(*choices: str) -> Values:
    """Permit only the given strings."""
    return Values("one of " + ", ".join(map(repr, choices)), lambda value: value in choices)


@dataclass(frozen=True)
class Key:
    """A key of the config.

    Attributes:
        default: the value if a config does not set the key. Values in a config must have the same type.
        meaning: the description shown to users.
        values: the permitted values.
    """

    default: Any
    meaning: str
    values: Values = ANY


def value_of(cfg: CfgNode, name: str) -> Any:
    """Return the value of the key ``name``, such as ``SOLVER.BASE_LR``."""
    return reduce(CfgNode.__getitem__, name.split("."), cfg)


def check_value(good: bool, name: str, found: object, expected: str) -> None:
    """Raise a ``ValueError`` with the key, the value found and the values expected unless ``good`` is true."""
    if not good:
        raise ValueError(f"{name} is {found!r}; expected {expected}")
