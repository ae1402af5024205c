"""Writes files atomically, so that a file is either complete or absent, and reads JSON files."""

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
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # names of `atomic_open`'s temporary files


class _Disk(io.FileIO):
    """An open file that records why it could not be written.

    PyTorch's zip writer replaces the error of a full disk with an error about its own file positions.
    """

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        with self._remembered():
            return super().write(data)

    def sync(self) -> None:
        """Flush the system's buffers to disk, because some disks report errors only at this point."""
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
    """Open a temporary file next to ``path`` for writing; if the block succeeds, flush it to disk and rename it.

    If the block raises an error, the temporary file is removed and an existing file at ``path`` stays unchanged. A
    killed process leaves its temporary file behind, which `remove_leftovers` removes. ``mode`` must be a writing mode
    (``"w"`` or ``"wb"``), and ``kwargs`` are passed to ``io.TextIOWrapper``. Missing parent folders are created.

    Raises:
        OSError: the file cannot be written. The message contains the path; the error from the block is its context.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', got {mode!r}")
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
        # mkstemp restricts the file to its owner; set the permissions that a plain open() would have set.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if disk.fault is not None and isinstance(error, Exception):
            why = disk.fault.strerror or disk.fault
            raise OSError(
                f"{path} could not be written: {why}. An existing file at this path is unchanged; free space on the"
                " disk and run the command again"
            ) from disk.fault
        raise
    finally:
        with suppress(OSError):  # from bytes left in the buffer
            disk.close()


def _locked_neighbour(path: Path) -> tuple[int, str]:
    """Create a temporary file next to ``path`` and lock it, which marks it as in use (see `remove_leftover`)."""
    while True:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            flock_now(descriptor)
            if Path(temporary).exists():
                return descriptor, temporary
        except BlockingIOError:
            pass
        except OSError:  # the disk does not support locks
            return descriptor, temporary
        os.close(descriptor)  # another process removed the file as a leftover before it was locked


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove temporary files that killed processes left in ``folder`` and its direct subfolders, and log this.

    A file that a process is still writing is locked and therefore kept. On a disk without locks, all files are kept.
    """
    for path in [*Path(folder).glob(".*.tmp"), *Path(folder).glob("*/.*.tmp")]:
        if TEMPORARY.fullmatch(path.name):
            remove_leftover(path)


def remove_leftover(path: Path) -> None:
    """Remove a temporary file and log this, unless its writer still locks it. The disk must support locks."""
    with suppress(OSError), path.open("rb") as handle:  # already removed, in use, or owned by another user
        if flock_now(handle.fileno()) is None:
            size = handle.seek(0, os.SEEK_END)
            path.unlink()
            logger.info("removed %s (%d bytes), which a killed process left behind", path, size)


def writing_fault(folder: str | os.PathLike) -> str | None:
    """Return why ``folder``, which need not exist, cannot be written to, or None if there is no obstacle."""
    path = Path(folder).absolute()
    for place in (path, *path.parents):
        if place.is_dir():
            return None if os.access(place, os.W_OK | os.X_OK) else f"{place} is not writable"
        if os.path.lexists(place):
            return f"{place} is not a folder"
    return None


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` to an indented JSON file atomically.

    Raises:
        ValueError: a number is not finite, which JSON cannot represent.
    """
    with atomic_open(path, "w", encoding="utf-8") as handle:
        json.dump(content, handle, indent=2, allow_nan=False)
        handle.write("\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file encoded in UTF-8, UTF-16 or UTF-32.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        told = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not JSON ({told})") from error


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line, such as ``metrics.json``, and ignore an incomplete last line.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: any other line is not JSON, or is not an object.
    """
    records = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            if number < len(lines):  # writing the last line may have been interrupted
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
    """Remove an incomplete last line, which a full disk or a killed process may have left, from a file and log this.

    The file is truncated in place, which requires no space on a disk that may be full. A missing file is ignored.
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
