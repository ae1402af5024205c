"""Masks in COCO's compressed run-length encoding, measured in batches so that none is decoded unchecked."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

# Each run is stored in groups of five bits, lowest first. A character from "P" on means that more groups follow.
COUNTS = re.compile(rb"([P-o]{0,5}[0-O])+")
TOGETHER = 4096  # masks per batch


def measure_runs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield, for each mask, the number of pixels in all its runs and in the object, or -1, -1 for a damaged mask.

    Runs of pixels outside and inside the object alternate, column by column. From the fourth run on, each run is stored
    as the difference from the run two positions earlier (pycocotools, ``rleToString``).
    """
    for begin in range(0, len(texts), TOGETHER):
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts[begin : begin + TOGETHER]]
        sound = [COUNTS.fullmatch(text) is not None for text in encoded]
        measured = iter(_measure([text for text, good in zip(encoded, sound, strict=True) if good]))
        yield from (next(measured) if good else (-1, -1) for good in sound)


def _measure(texts: Sequence[bytes]) -> list[tuple[int, int]]:
    if not texts:
        return []
    codes = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(codes < 32)  # last character of each run
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((codes & 31) << 5 * place, first)
    values -= np.where(codes[last] & 16, 1 << 5 * (last - first + 1), 0)  # in two's complement
    begins = np.searchsorted(last, np.cumsum([0, *map(len, texts)])[:-1])  # index of the first run of each mask
    number = np.arange(len(values)) - np.repeat(begins, np.diff(begins, append=len(values)))  # of each run in its mask
    # Sum up the differences over the second, fourth, ... run, and over the third, fifth, ... run.
    runs = np.where(number == 0, values, 0)
    for parity in (number % 2 == 1, (number % 2 == 0) & (number > 0)):
        total = np.cumsum(np.where(parity, values, 0))
        before = np.concatenate([[0], total])[begins]
        runs = np.where(parity, total - np.repeat(before, np.diff(begins, append=len(values))), runs)
    inside = np.add.reduceat(np.where(number % 2 == 1, runs, 0), begins)
    damaged = np.minimum.reduceat(runs, begins) < 0
    pixels = np.where(damaged, -1, np.add.reduceat(runs, begins))
    return list(zip(pixels.tolist(), np.where(damaged, -1, inside).tolist(), strict=True))
