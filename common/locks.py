"""One process at a time, on one machine or on a shared disk."""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from iopath.common.file_io import file_lock
from portalocker.exceptions import LockException

PATIENCE = 3600.0  # seconds

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # the errors of disks that cannot lock
CLAIM = "in_use.lock"  # in a folder that a process works in

logger = logging.getLogger(__name__)

# Open files of this process's claims. A lock of flock belongs to the open file, which a forked child shares: a loader
# that outlives its killed parent would keep the parent's lock. So a child closes them, which releases no lock.
_claims: set[int] = set()


def _leave_claims_to_parent() -> None:
    for descriptor in _claims:
        os.close(descriptor)
    _claims.clear()


os.register_at_fork(after_in_child=_leave_claims_to_parent)


@contextmanager
def exclusive(path: str | os.PathLike, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of ``path``, the file ``<path>.lock``, while the block runs; log it if this has to wait.

    A process that ends, in any way, releases its locks. The empty lock file stays: if it were removed while another
    process waits for it, two processes could enter. Parent folders are made.

    Args:
        path: what is locked; it need not exist.
        patience: the most seconds to wait; may be infinite.

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
            logger.warning("waiting for another process, which holds %s.lock", path)
            lock.acquire(timeout=patience)
    except LockException as error:
        raise OSError(
            f"{path}.lock is held by another process, or cannot be locked on this disk ({error}); wait until the"
            " other process is done and run this again"
        ) from error
    with lock:  # held already; leaving the block releases it
        yield


@contextmanager
def claim(folder: str | os.PathLike, *, work: str = "trains", instead: str = "choose another folder") -> Iterator[None]:
    """Hold ``folder`` for this process while the block runs; refuse at once where another process holds it.

    The lock is on the file `CLAIM` in the folder, which says who holds it and is removed when the block ends. A process
    that ends, in any way, releases its claim, and the next one takes over the file that it left. Children do not share
    the claim. On a disk without locks there is only a warning. The folder is made, and removed again if it stays empty.

    Args:
        folder: a folder that one process at a time may write to.
        work: what this process does there, for the message to a process that is refused.
        instead: what the refused process can do instead.

    Raises:
        BlockingIOError: another process holds it; the message has its id, its machine and its start.
        OSError: the folder or the file cannot be made.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    path = folder / CLAIM
    descriptor = lock_file(path)
    if descriptor is None:
        raise BlockingIOError(f"{_holder(path)} {folder}; wait for it, end it, or {instead}")
    _claims.add(descriptor)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), "work": work}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        if descriptor in _claims:  # else this is a forked child
            _claims.remove(descriptor)
            path.unlink(missing_ok=True)  # while it is locked: see `lock_file`
            with suppress(OSError):  # a folder with files stays
                for place in made:
                    place.rmdir()
            os.close(descriptor)


def flock_now(descriptor: int) -> OSError | None:
    """Lock an open file, for all processes that share it, without waiting; return the error of a disk without locks.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be locked, for another reason.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return error
    return None


def lock_file(path: Path) -> int | None:
    """Lock the file at ``path``, made if needed, and return its descriptor, for reading and writing.

    On a disk without locks there is only a warning.

    Returns:
        None if another process has the lock.

    Raises:
        OSError: the file or its folder cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the folder was just removed by the process whose claim it held
        try:
            if error := flock_now(descriptor):
                logger.warning("%s cannot be locked on this disk (%s): let only one process use it", path, error)
                return descriptor
            # Between opening and locking, its holder may have ended and removed it; what is locked must be what
            # others will find.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # it was just removed
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(path: Path) -> str:
    """Name the process that holds the claim at ``path`` and its work, as the beginning of a sentence."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"another process (pid {held['pid']} on {held['host']}, since {held['since']}) {held['work']} in"
    except (OSError, ValueError, KeyError, TypeError):  # the process is just starting or ending
        return "another process works in"
