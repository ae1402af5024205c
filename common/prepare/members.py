"""The files in a zip or tar archive."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

# Errors raised when reading a damaged archive; EOFError and zlib.error come from compressed streams.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name in the archive, its size in bytes, and a function that opens it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


Members = Callable[[Path], Iterator[Member]]


def members(path: Path) -> Iterator[Member]:
    """Yield the files in a zip or tar archive, in order.

    Raises:
        ValueError: the archive contains a link or a device.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                # The upper half of the attributes is the Unix file mode; 0o12 is a symbolic link.
                if info.external_attr >> 28 == 0o12:
                    raise ValueError(f"{info.filename!r} is a link")
                if not info.is_dir():
                    yield Member(info.filename, info.file_size, partial(archive.open, info))
    else:
        with path.open("rb") as handle:
            yield from tar_members(handle)


def tar_members(handle: IO[bytes]) -> Iterator[Member]:
    """Yield the files in an open tar archive, plain or compressed.

    Raises:
        ValueError: the archive contains a link or a device.
        tarfile.ReadError: the archive is truncated.
    """
    with tarfile.open(fileobj=handle) as archive:
        for info in archive:
            if not (info.isfile() or info.isdir()):
                raise ValueError(f"{info.name!r} is a link or a device")
            if info.isfile():
                yield Member(info.name, info.size, partial(archive.extractfile, info))  # type: ignore[arg-type]  # a file
        # tarfile accepts any ending, but a complete archive ends with a block of zeros.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("unexpected end of data")
        while archive.fileobj.read(1 << 20):  # compressed streams end with a checksum
            pass


def tar_of_tars(path: Path) -> Iterator[Member]:
    """Yield the files in the tar archives inside a tar archive, each below a folder named after its inner archive."""
    for inner in members(path):
        with inner.open() as handle:
            for member in tar_members(handle):
                name = f"{PurePosixPath(inner.name).stem}/{member.name}"
                yield Member(name, member.size, member.open)
