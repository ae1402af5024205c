"""Reports errors of the user and of the system in one line; only bugs in the program show a traceback."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Raised for invalid input, and by the system, for example for a missing file, a missing permission or a full disk.
USER_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, FloatingPointError)


class MissingPackageError(ImportError):
    """Raised when a required package is missing or too old. The message explains how to install it."""


def message_of(error: BaseException) -> str:
    """Return the message of an error. For an error in a loader process, omit the traceback that PyTorch adds."""
    text = str(error)
    if not re.match(r"Caught \w+ in DataLoader worker process \d+\.\n", text):
        return text
    lines = text.splitlines()
    last_frame = max(place for place, line in enumerate(lines) if line.startswith("  "))
    said = " ".join(" ".join(lines[last_frame + 1 :]).split())
    return re.sub(r"^[\w.]+: ", "", said)  # the error's type


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the program with one line on stderr if Ctrl-C interrupts it (status 130) or a package is missing.

    If MOCODET_TRACEBACK=1 is set in the environment, the error itself is raised.

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
    """End the program with ``error: ...`` on stderr and status 1 if one of ``USER_ERRORS`` or ``more`` is raised.

    If MOCODET_TRACEBACK=1 is set in the environment, the error itself is raised.

    Raises:
        SystemExit: such an error was raised; the exit code is its message.
    """
    try:
        yield
    except (*USER_ERRORS, *more) as error:
        if os.environ.get("MOCODET_TRACEBACK"):
            raise
        sys.exit(f"error: {message_of(error)}")
