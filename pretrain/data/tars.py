"""Sequential reading of compressed and uncompressed tar archives. Archives joined with ``cat`` count as one.

tarfile, and therefore webdataset, stops at the first end mark and mistakes truncated or corrupt headers for one.
"""

import bz2
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

RECORD = 20 * tarfile.BLOCKSIZE  # number of bytes to read at once, like tarfile

# Maps the first bytes of compressed data to a decompressor, which stops at an end mark.
DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": partial(zlib.decompressobj, wbits=16 + zlib.MAX_WBITS),  # gzip, with its checksum
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"\x5d\x00\x00\x80": lzma.LZMADecompressor,
}

# tarfile errors that are missing from its documentation and its type stubs.
EMPTY, TRUNCATED, INVALID, ZEROS = (
    getattr(tarfile, f"{kind}HeaderError") for kind in ("Empty", "Truncated", "Invalid", "EOF")
)


class LeftoverError(tarfile.ReadError):
    """The data after the end of an archive is not an archive."""


def open_tar(stream: IO[bytes]) -> tarfile.TarFile:
    """Open an archive at the current position of a stream. It can be iterated over only once.

    In an uncompressed archive in a local file, unneeded data is skipped by seeking. All other archives are read
    completely.

    Raises:
        tarfile.TarError: the stream is not an archive, is damaged or truncated, or (`LeftoverError`) is followed by
            something other than archives and zeros. The error may also be raised during iteration.
    """
    local = isinstance(stream, io.BufferedReader) and stream.seekable()
    if local and stream.peek(512)[257:262] == b"ustar":  # type: ignore[attr-defined]
        return _JoinedTar.open(fileobj=stream, mode="r:")
    return _JoinedTar.open(fileobj=_Unpacked(stream), mode="r|")  # type: ignore[call-overload]


class _StrictTarInfo(tarfile.TarInfo):
    """A header. A truncated or corrupt header is an error, and so is the end of the file before an end mark."""

    @classmethod
    def fromtarfile(cls, archive: "_JoinedTar") -> "_StrictTarInfo":  # type: ignore[override]
        try:
            member = super().fromtarfile(archive)
        except ZEROS:
            archive.ended = True
            raise
        except (EMPTY, TRUNCATED, INVALID) as error:
            if not archive.ended:
                raise tarfile.ReadError(str(error)) from error
            if isinstance(error, EMPTY):
                raise  # tarfile interprets this as the end, which is correct here
            while archive.fileobj.read(1 << 20):
                pass
            count = archive.fileobj.tell() - archive.offset
            raise LeftoverError(f"{count:,} bytes follow the end of the archive and are not an archive") from error
        archive.ended = False
        return member


class _JoinedTar(tarfile.TarFile):
    """A tar file that continues after end marks. ``ended`` is true if the last block was part of an end mark."""

    tarinfo = _StrictTarInfo
    ignore_zeros = True
    ended = False


class _Unpacked:
    """The decompressed contents of a stream, which may consist of multiple compressed parts."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._parts = _unpack(stream)

    def read(self, _: int) -> bytes:
        """Return the next bytes, in any number, or no bytes at the end."""
        return next(self._parts, b"")


def _unpack(stream: IO[bytes]) -> Iterator[bytes]:
    data = stream.read(RECORD)
    make = next((make for mark, make in DECOMPRESSORS.items() if data.startswith(mark)), None)
    if make is None:
        while data:
            yield data
            data = stream.read(RECORD)
        return
    unpacker, joined = make(), False
    while data or (data := stream.read(RECORD)):
        if unpacker.eof:
            data = data.lstrip(b"\0")  # padding
            if not data:
                continue
            unpacker, joined = make(), True
        try:
            found = unpacker.decompress(data)
        except (zlib.error, lzma.LZMAError, OSError) as error:  # bz2 raises OSError
            what = "the data after the end of the compressed data is not compressed" if joined else "compressed data"
            raise tarfile.ReadError(f"{what}: {error}") from error
        data = unpacker.unused_data if unpacker.eof else b""
        yield from (found[begin : begin + RECORD] for begin in range(0, len(found), RECORD))
    if not unpacker.eof:
        raise tarfile.ReadError("the compressed data are truncated")
