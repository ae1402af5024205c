"""Keys with dots, such as ``SOLVER.MAX_ITER``, in configs that are nested mappings."""

from collections.abc import Mapping
from typing import Any


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key, or None where the config has none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
