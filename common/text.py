"""Wording that error messages share."""

from collections.abc import Sequence


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """Name the first ``limit`` of a list that may be long, on one line, and say how many more there are."""
    if not names:
        return "nothing"
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
