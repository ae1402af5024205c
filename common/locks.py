"""Locks that admit one process at a time, on one machine or on a shared disk."""

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

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of disks that do not support locks
CLAIM = "in_use.lock"  # the lock file in a folder that a process has claimed

logger = logging.getLogger(__name__)

# Open lock files of this process's claims. A flock lock belongs to the open file, which a forked child shares, so a
# loader that outlives its killed parent would keep the parent's lock. A child therefore closes these files, which does
# not release the locks.
_claims: set[int] = set()


def _leave_claims_to_parent() -> None:
    for descriptor in _claims:
        os.close(descriptor)
    _claims.clear()


os.register_at_fork(after_in_child=_leave_claims_to_parent)


@contextmanager
def exclusive(path: str | os.PathLike, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of ``path``, the file ``<path>.lock``, while the block runs, and log a message if it must wait.

    A process releases its locks when it ends, whatever the reason. The empty lock file is kept, because two processes
    could enter the block if it were removed while another process waits for it. Missing parent folders are created.

    Args:
        path: the path to lock, which need not exist.
        patience: the maximum number of seconds to wait, which may be infinite.

    Raises:
        OSError: the lock file cannot be written, or another process has held the lock for ``patience`` seconds.
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
            " other process has finished, then run the command again"
        ) from error
    with lock:  # already acquired; leaving the block releases it
        yield


@contextmanager
def claim(folder: str | os.PathLike, *, work: str = "trains", instead: str = "choose another folder") -> Iterator[None]:
    """Claim ``folder`` for this process while the block runs; raise an error if another process has claimed it.

    The lock is on the file `CLAIM` in the folder, which identifies the process and is removed when the block ends. A
    process releases its claim when it ends, whatever the reason, and the next process reuses a lock file left behind.
    Child processes do not share the claim. On a disk without locks, only a warning is logged. The folder is created if
    necessary, and removed again if it stays empty.

    Args:
        folder: a folder that only one process at a time may write to.
        work: what this process does in the folder, for the error message in another process.
        instead: what the other process can do instead, for the same message.

    Raises:
        BlockingIOError: another process has claimed the folder; the message contains its id, machine and start time.
        OSError: the folder or the lock file cannot be created.
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
        if descriptor in _claims:  # otherwise this is a forked child
            _claims.remove(descriptor)
            path.unlink(missing_ok=True)  # while it is locked, see `lock_file`
            with suppress(OSError):  # a folder that contains files is kept
                for place in made:
                    place.rmdir()
            os.close(descriptor)


def flock_now(descriptor: int) -> OSError | None:
    """Lock an open file, for all processes that share it, without waiting; return the error of a disk without locks.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be locked for another reason.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return error
    return None


def lock_file(path: Path) -> int | None:
    """Lock the file at ``path``, creating it if necessary, and return its descriptor for reading and writing.

    On a disk without locks, only a warning is logged.

    Returns:
        the descriptor, or None if another process holds the lock.

    Raises:
        OSError: the file or its folder cannot be created.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the process that had claimed the folder has just removed it
        try:
            if error := flock_now(descriptor):
                logger.warning(
                    "%s cannot be locked on this disk (%s); ensure that only one process uses it", path, error
                )
                return descriptor
            # The holder may have ended and removed the file between opening and locking. The locked file must be the
            # one that other processes will find.
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
    """Return the beginning of a sentence that names the process with the claim at ``path`` and its work."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"another process (pid {held['pid']} on {held['host']}, since {held['since']}) {held['work']} in"
    except (OSError, ValueError, KeyError, TypeError):  # the process is just starting or ending
        return "another process works in"
