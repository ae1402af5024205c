"""One process at a time, on one machine or on a shared disk."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iopath.common.file_io import file_lock
from portalocker.exceptions import LockException

PATIENCE = 3600.0  # seconds


@contextmanager
def exclusive(path: str | os.PathLike, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of ``path``, the file ``<path>.lock``, while the block runs; say so if it must be waited for.

    A process that ends, in whatever way, gives its locks back. The empty lock file stays: to remove it while another
    process waits for it would let two in. Parent folders are made.

    Args:
        path: what is locked; need not be there.
        patience: seconds to wait at most; may be infinite.

    Raises:
        OSError: the lock file cannot be written, or another process has held the lock for that long.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(str(path))
    try:
        try:
            lock.acquire(timeout=0)
        except LockException:
            logging.getLogger(__name__).warning("waiting for another process, which holds %s.lock", path)
            lock.acquire(timeout=patience)
    except LockException as error:
        raise OSError(
            f"{path}.lock is held by another process, or cannot be locked on this disk ({error}); wait until the"
            " other one is done and run this again"
        ) from error
    with lock:  # it is held already; leaving the block gives it back
        yield
