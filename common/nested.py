"""Keys with dots, such as ``SOLVER.MAX_ITER``, in configs that are nested mappings."""

from collections.abc import Mapping, Sequence
from typing import Any


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key, or None if the config does not have it."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def changes(there: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Say which of some keys have another value now than there; keys that one of the configs lacks are left out."""
    values = [(key, _plain(look_up(there, key)), _plain(look_up(now, key))) for key in keys]
    different = [(key, old, new) for key, old, new in values if None not in (old, new) and old != new]
    return ", ".join(f"{key} {old} there, {new} now" for key, old, new in different)


def _plain(value: Any) -> Any:
    """Return a value with lists in place of tuples, as YAML has them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
