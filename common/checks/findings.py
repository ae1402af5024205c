"""Faults that a check finds beyond those of a reader, and a count of what it checked."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.findings import Finding


@dataclass(frozen=True, init=False)
class Fault(Finding):
    """An error of a file as a whole; its ``what`` also says what to do."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__("error", file, "", what, "")


@dataclass
class Tally:
    """Counts of what was checked, for the summary and by file and folder, and notes that are not faults.

    ``max_pixels``: the largest image; 0: any size.
    """

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    looked_at: set[Path] = field(default_factory=set)
    max_pixels: int = MAX_PIXELS


def count_faults(file: Path, what: str, found: int, expected: int | None) -> Iterator[Fault]:
    """Yield a fault unless there are as many as in the published data set; ``expected`` None: any number."""
    if expected is not None and found != expected:
        yield Fault(
            file,
            f"counts differ: {found:,} {what}, the published data set has {expected:,}; unpack it again with"
            " --again, or give --any-size if this is a part of it",
        )
