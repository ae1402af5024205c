"""Errors of users and of the machine are told in one line; only a fault of the program has a traceback."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Raised for bad input, and by the system: no such file, no permission, a full disk.
USER_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, FloatingPointError)


class MissingPackageError(ImportError):
    """A package that mocodet needs is not installed or too old; the message says how to install it."""


def message_of(error: BaseException) -> str:
    """Return the message of an error; for one from a loader process, without the traceback that PyTorch adds."""
    text = str(error)
    if not re.match(r"Caught \w+ in DataLoader worker process \d+\.\n", text):
        return text
    lines = text.splitlines()
    last_frame = max(place for place, line in enumerate(lines) if line.startswith("  "))
    said = " ".join(" ".join(lines[last_frame + 1 :]).split())
    return re.sub(r"^[\w.]+: ", "", said)  # the error's type


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the program with one line on stderr if Ctrl-C interrupts it, with status 130, or a package is missing.

    With MOCODET_TRACEBACK=1 in the environment, the error itself is raised.

    Raises:
        SystemExit: the program was interrupted, or a package is missing.
    """
    try:
        yield
    except (KeyboardInterrupt, MissingPackageError) as error:
        if os.environ.get("MOCODET_TRACEBACK"):
            raise
        if isinstance(error, MissingPackageError):
            sys.exit(f"error: {error}")
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)


@contextmanager
def errors_in_one_line(*more: type[Exception]) -> Iterator[None]:
    """End the program with ``error: ...`` on stderr and status 1 when one of ``USER_ERRORS`` or ``more`` is raised.

    With MOCODET_TRACEBACK=1 in the environment, the error itself is raised.

    Raises:
        SystemExit: its code is the message.
    """
    try:
        yield
    except (*USER_ERRORS, *more) as error:
        if os.environ.get("MOCODET_TRACEBACK"):
            raise
        sys.exit(f"error: {message_of(error)}")
