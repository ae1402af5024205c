"""What a user or the machine did is told in one line; only a fault of the program is worth a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What bad input raises, and what the system refuses: no such file, no permission, a full disk.
USER_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, FloatingPointError)


@contextmanager
def errors_in_one_line(*more: type[Exception]) -> Iterator[None]:
    """End the program with ``error: ...`` on stderr and status 1 when one of ``USER_ERRORS`` or ``more`` is raised.

    With MOCODET_TRACEBACK=1 in the environment the error itself is raised.

    Raises:
        SystemExit: its code is the message.
    """
    try:
        yield
    except (*USER_ERRORS, *more) as error:
        if os.environ.get("MOCODET_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
