"""Reads that failed are tried again after a while, in the hope that the fault passes."""

from collections.abc import Iterator

# Seconds to wait before the next attempt; anew after whatever has come.
RETRY_DELAYS = (1.0, 5.0, 25.0)


class LastingError(ValueError):
    """A fault that does not pass when the same is tried again."""


def delays() -> Iterator[float]:
    """Return the waits before further attempts; when there is none left, the attempt was the last."""
    return iter(RETRY_DELAYS)


def reason(error: Exception) -> str:
    """Return an error's message, or else its kind, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
