"""Single values in COCO's JSON, and the forms in which they may be written."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from reprlib import repr as brief
from typing import Any, TypeGuard

Id = int | str
Record = dict[str, Any]

FAR = 1e12  # exceeds every coordinate and every object area, in pixels
DIGITS = re.compile(r"0|[1-9][0-9]{0,17}")  # an integer without leading zeros


def as_id(value: Any) -> Id | None:
    """Return an id as an integer or text, or None if it is neither."""
    if type(value) is int or (type(value) is str and value):
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def other_form(value: Id) -> Id | None:
    """Convert an integer id to text and a text id of digits to an integer; return None for other text."""
    if isinstance(value, int):
        return str(value)
    return int(value) if DIGITS.fullmatch(value) else None


def order(identity: Id) -> tuple[int, int, str]:
    """Return a sort key for ids that puts numbers, including numbers written as text, before other text."""
    if type(identity) is str and not DIGITS.fullmatch(identity):
        return 1, 0, identity
    return 0, int(identity), str(identity)


def as_side(value: Any) -> int | None:
    """Return the side of an image in pixels, a positive integer that may be given as text or a float, or None."""
    if type(value) is str:
        value = int(value) if DIGITS.fullmatch(value) else None
    side = as_id(value)
    return side if type(side) is int and 0 < side < FAR else None


def are_numbers(values: Any) -> TypeGuard[list[float]]:
    """Return whether the value is a non-empty list of finite numbers within the range of pixels."""
    # The sum reveals non-numeric, infinite and NaN values; the minimum and maximum reveal numbers out of range.
    try:
        return type(values) is list and isfinite(sum(values)) and min(values) > -FAR and max(values) < FAR
    except (TypeError, ValueError, OverflowError):
        return False


def short(value: Any) -> str:
    """Format a value for a message, leaving short text unchanged."""
    return value if type(value) is str and len(value) <= 60 else brief(value)


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable the garbage collector, which would otherwise scan millions of live records over and over again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.unfreeze()  # all objects now count as old; young objects would be scanned immediately
            gc.enable()
