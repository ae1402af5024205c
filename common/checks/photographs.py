"""Photographs for pre-training: those that are damaged, tiny, duplicates, or in a test split."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.image import decode_pixels, read_file, reason_of

from .images import in_processes


class Photograph(NamedTuple):
    """The result of reading one file.

    Attributes:
        path: the file.
        side: the shorter side in pixels; 0: the file cannot be read.
        digest: hash of size and pixels, as a run reads them.
        reason: why it cannot be read.
    """

    path: str
    side: int = 0
    digest: bytes = b""
    reason: str = ""


class Unwanted(NamedTuple):
    """A photograph that pre-training should leave out: its file, the reason in a word, and details."""

    path: str
    what: str
    reason: str


def look_at(path: str, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Decode an image as a run does; ``max_pixels`` as of `decode_pixels`."""
    try:
        pixels = decode_pixels(read_file(path), path, max_pixels)
    except (OSError, ValueError) as error:
        return Photograph(path, reason=reason_of(path, error).removesuffix("; replace or remove it"))
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.data)
    return Photograph(path, min(pixels.shape[:2]), digest.digest())


def look_at_all(paths: Sequence[str], workers: int, max_pixels: int = MAX_PIXELS) -> Iterator[Photograph]:
    """Yield the photographs at ``paths``, in order, decoded by ``workers`` processes (0: this one)."""
    yield from in_processes(partial(look_at, max_pixels=max_pixels), paths, workers, "image")


def unwanted(photographs: Iterable[Photograph], least: int, test: Iterable[Photograph] = ()) -> Iterator[Unwanted]:
    """Yield the photographs to leave out, with one reason each; the first of equal ones is kept.

    Args:
        photographs: the photographs of the pool.
        least: the least length of a shorter side, in pixels.
        test: photographs that must not be in the pool.
    """
    seen: dict[bytes, str] = {}
    tested = {photograph.digest: photograph.path for photograph in test if photograph.side}
    for path, side, digest, reason in photographs:
        if not side:
            yield Unwanted(path, "damaged", reason)
        elif digest in tested:
            yield Unwanted(path, "leak", f"has the pixels of {tested[digest]}")
        elif side < least:
            yield Unwanted(path, "tiny", f"has a side of {side} pixels, less than {least}")
        elif digest in seen:
            yield Unwanted(path, "duplicate", f"has the pixels of {seen[digest]}")
        else:
            seen[digest] = path
