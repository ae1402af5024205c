"""Detection of photographs to leave out of pre-training: damaged, tiny, flat, duplicate, or in a test split."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.image import decode_pixels, read_file, reason_of

from .images import in_processes

# Smallest difference between an image's darkest and brightest values, of 255. Values of 10 to 12 bits that are stored
# unscaled in 16 bits have the upper bytes 0 to 15.
LEAST_CONTRAST = 16


class Photograph(NamedTuple):
    """The result of reading an image file.

    Attributes:
        path: the file.
        side: length of the shorter side in pixels; 0 if the file cannot be read.
        digest: hash of the size and the pixels, as read in a run.
        reason: why the file cannot be read.
        contrast: difference between the darkest and the brightest of the 8-bit values, over all channels.
    """

    path: str
    side: int = 0
    digest: bytes = b""
    reason: str = ""
    contrast: int = 0


class Unwanted(NamedTuple):
    """A photograph that pre-training should leave out: its file, a one-word reason, and details."""

    path: str
    what: str
    reason: str


def look_at(path: str, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Decode an image as in a run; for ``max_pixels``, see `decode_pixels`."""
    try:
        pixels = decode_pixels(read_file(path), path, max_pixels)
    except (OSError, ValueError) as error:
        return Photograph(path, reason=reason_of(path, error).removesuffix("; replace or remove it"))
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.data)
    contrast = int(pixels.max()) - int(pixels.min())
    return Photograph(path, min(pixels.shape[:2]), digest.digest(), contrast=contrast)


def look_at_all(paths: Sequence[str], workers: int, max_pixels: int = MAX_PIXELS) -> Iterator[Photograph]:
    """Yield the photographs at ``paths`` in order, decoded in ``workers`` processes (0: in this process)."""
    yield from in_processes(partial(look_at, max_pixels=max_pixels), paths, workers, "image")


def unwanted(photographs: Iterable[Photograph], least: int, test: Iterable[Photograph] = ()) -> Iterator[Unwanted]:
    """Yield the photographs to leave out, with one reason each; the first of identical photographs is kept.

    Args:
        photographs: photographs in the pool.
        least: minimum length of the shorter side, in pixels.
        test: photographs that must not be in the pool.
    """
    seen: dict[bytes, str] = {}
    tested = {photograph.digest: photograph.path for photograph in test if photograph.side}
    for path, side, digest, reason, contrast in photographs:
        if not side:
            yield Unwanted(path, "damaged", reason)
        elif digest in tested:
            yield Unwanted(path, "leak", f"has the same pixels as {tested[digest]}")
        elif side < least:
            yield Unwanted(path, "tiny", f"has a side of {side} pixels; the minimum is {least}")
        elif contrast < LEAST_CONTRAST:
            remedy = "if the file has 16 bits per pixel, scale its values to the full range"
            yield Unwanted(path, "flat", f"has values that differ by at most {contrast} of 255; {remedy}")
        elif digest in seen:
            yield Unwanted(path, "duplicate", f"has the same pixels as {seen[digest]}")
        else:
            seen[digest] = path
