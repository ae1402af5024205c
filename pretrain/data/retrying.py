"""Delays between attempts to read, and errors that cannot be fixed by trying again."""

from collections.abc import Iterator

# Seconds to wait before each further attempt. The sequence restarts after every success.
RETRY_DELAYS = (1.0, 5.0, 25.0)


class LastingError(ValueError):
    """An error that cannot be fixed by trying again."""


def delays() -> Iterator[float]:
    """Return the delays before further attempts. After the last delay, no more attempts are made."""
    return iter(RETRY_DELAYS)


def reason(error: Exception) -> str:
    """Return the message of an error, or its type if there is no message, on a single line."""
    return " ".join(str(error).split()) or type(error).__name__
