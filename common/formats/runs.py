"""Masks as COCO's compressed run lengths, measured many at a time, so that none is decoded unchecked."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

# Each run is written in groups of five bits, the lowest first; characters from "P" on mean that more groups follow.
COUNTS = re.compile(rb"([P-o]{0,5}[0-O])+")
TOGETHER = 4096  # masks


def measure_runs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield for each mask the number of pixels of its runs, and of the object; -1, -1 for a damaged mask.

    Runs of pixels outside and inside the object alternate, column by column. From the fourth on, a run is written as
    its difference from the run before the last (pycocotools, ``rleToString``).
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
    last = np.flatnonzero(codes < 32)  # character of each run
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((codes & 31) << 5 * place, first)
    values -= np.where(codes[last] & 16, 1 << 5 * (last - first + 1), 0)  # in two's complement
    begins = np.searchsorted(last, np.cumsum([0, *map(len, texts)])[:-1])  # first run of each mask
    number = np.arange(len(values)) - np.repeat(begins, np.diff(begins, append=len(values)))  # of a run in its mask
    # Sums of the differences over the second run, the fourth, ...; and over the third, the fifth, ...
    runs = np.where(number == 0, values, 0)
    for parity in (number % 2 == 1, (number % 2 == 0) & (number > 0)):
        total = np.cumsum(np.where(parity, values, 0))
        before = np.concatenate([[0], total])[begins]
        runs = np.where(parity, total - np.repeat(before, np.diff(begins, append=len(values))), runs)
    inside = np.add.reduceat(np.where(number % 2 == 1, runs, 0), begins)
    damaged = np.minimum.reduceat(runs, begins) < 0
    pixels = np.where(damaged, -1, np.add.reduceat(runs, begins))
    return list(zip(pixels.tolist(), np.where(damaged, -1, inside).tolist(), strict=True))
