"""Accesses nested config mappings by dotted keys, such as ``SOLVER.MAX_ITER``."""

from collections.abc import Mapping, Sequence
from typing import Any


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key, or None if the config does not contain it."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def changes(there: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    """List the keys whose values differ between the two configs; keys that one of the configs lacks are ignored."""
    values = [(key, _plain(look_up(there, key)), _plain(look_up(now, key))) for key in keys]
    different = [(key, old, new) for key, old, new in values if None not in (old, new) and old != new]
    return ", ".join(f"{key} {old} there, {new} now" for key, old, new in different)


def _plain(value: Any) -> Any:
    """Return a value with its tuples replaced by lists, as in YAML."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
