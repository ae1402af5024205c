"""Files that matter appear whole or not at all."""

import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .locks import flock_now

logger = logging.getLogger(__name__)

BLOCK = 1 << 16  # bytes read at a time
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # names of the files that `atomic_open` writes before it renames


class _Disk(io.FileIO):
    """An open file that remembers why it could not be written.

    PyTorch's zip writer replaces the error of a full disk with one about its own positions.
    """

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        with self._remembered():
            return super().write(data)

    def sync(self) -> None:
        """Have the system write its buffers; some disks fail only at this point."""
        with self._remembered():
            os.fsync(self.fileno())

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.fault = error
            raise


@contextmanager
def atomic_open(path: str | os.PathLike, mode: str = "wb", **kwargs) -> Iterator[IO]:
    """Open a temporary file beside ``path`` for writing; flush it to disk and rename it when the block succeeds.

    If the block raises, the temporary file is removed and the file at ``path`` stays as it was. A process that is
    killed leaves the temporary file, which `remove_leftovers` removes. ``mode`` must be a writing mode
    (``"w"`` or ``"wb"``); ``kwargs`` are those of ``io.TextIOWrapper``; parent folders are made.

    Raises:
        OSError: the file cannot be written; the message has the path. The error that left the block is its context.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_open writes whole files: mode must be 'w' or 'wb', got {mode!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = _locked_neighbour(path)
    disk = _Disk(descriptor, "w")
    try:
        buffer = io.BufferedWriter(disk)
        with buffer if mode == "wb" else io.TextIOWrapper(buffer, **kwargs) as handle:
            yield handle
            handle.flush()
            disk.sync()
        # mkstemp makes the file private to its owner; give it what a plain open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if disk.fault is not None and isinstance(error, Exception):
            why = disk.fault.strerror or disk.fault
            raise OSError(
                f"{path} could not be written: {why}. An older file there is unchanged; free space on that disk and"
                " run the command again"
            ) from disk.fault
        raise
    finally:
        with suppress(OSError):  # from bytes left in the buffer
            disk.close()


def _locked_neighbour(path: Path) -> tuple[int, str]:
    """Make a temporary file beside ``path``; its lock marks it as in use, see `remove_leftover`."""
    while True:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            flock_now(descriptor)
            if Path(temporary).exists():
                return descriptor, temporary
        except BlockingIOError:
            pass
        except OSError:  # from a disk that refuses locks
            return descriptor, temporary
        os.close(descriptor)  # another process took the file, before it was locked, for a leftover


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove temporary files that killed processes left in ``folder`` and its direct subfolders; log it.

    A file that a process is writing is locked and stays. On a disk without locks every file stays.
    """
    for path in [*Path(folder).glob(".*.tmp"), *Path(folder).glob("*/.*.tmp")]:
        if TEMPORARY.fullmatch(path.name):
            remove_leftover(path)


def remove_leftover(path: Path) -> None:
    """Remove a temporary file unless its writer still locks it; log it. The disk must support locks."""
    with suppress(OSError), path.open("rb") as handle:  # already removed, in use, or another user's
        if flock_now(handle.fileno()) is None:
            size = handle.seek(0, os.SEEK_END)
            path.unlink()
            logger.info("removed %s (%d bytes), left by a killed process", path, size)


def writing_fault(folder: str | os.PathLike) -> str | None:
    """Say why ``folder``, which need not exist, cannot be written to; None if nothing speaks against it."""
    path = Path(folder).absolute()
    for place in (path, *path.parents):
        if place.is_dir():
            return None if os.access(place, os.W_OK | os.X_OK) else f"{place} is not writable"
        if os.path.lexists(place):
            return f"{place} is not a folder"
    return None


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` to a JSON file, indented, whole or not at all.

    Raises:
        ValueError: a number is not finite, which JSON cannot express.
    """
    with atomic_open(path, "w", encoding="utf-8") as handle:
        json.dump(content, handle, indent=2, allow_nan=False)
        handle.write("\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file, in UTF-8, UTF-16 or UTF-32.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        told = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not JSON ({told})") from error


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line, such as ``metrics.json``; an incomplete last line is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another line is not JSON, or not an object.
    """
    records = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            if number < len(lines):  # else writing it was interrupted
                raise ValueError(
                    f"{path}, line {number} is not JSON: {line[:80].decode(errors='replace')!r}"
                ) from error
            continue
        if isinstance(record, dict):
            records.append(record)
        elif line.strip():
            raise ValueError(f"{path}, line {number} is not a JSON object: {line[:80].decode(errors='replace')!r}")
    return records


def drop_half_line(path: str | os.PathLike) -> None:
    """Cut a file of lines after its last complete line, and log it: a full disk or a killed process leaves a part.

    The file is shortened in place, which needs no space on a disk that may be full. A missing file stays missing.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open("r+b") as handle:
        end = length = handle.seek(0, os.SEEK_END)
        newline = -1
        while newline < 0 < end:
            start = max(0, end - BLOCK)
            handle.seek(start)
            newline = handle.read(end - start).rfind(b"\n")
            end = start + newline + 1
        if end < length:
            handle.truncate(end)
            os.fsync(handle.fileno())
            logger.warning("%s ended in an incomplete line of %d bytes, which was removed", path, length - end)
