"""Delays for retrying reads that failed, and errors for which retrying is useless."""

from collections.abc import Iterator

# Seconds to wait before each attempt; the series starts again after every success.
RETRY_DELAYS = (1.0, 5.0, 25.0)


class LastingError(ValueError):
    """A fault that retrying does not cure."""


def delays() -> Iterator[float]:
    """Return the waits before further attempts; when they are used up, the attempt was the last."""
    return iter(RETRY_DELAYS)


def reason(error: Exception) -> str:
    """Return an error's message, or else its kind, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
