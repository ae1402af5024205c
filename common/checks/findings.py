"""Errors that a check finds in addition to those of a reader, and counts of what was checked."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.findings import Finding


@dataclass(frozen=True, init=False)
class Fault(Finding):
    """An error in a file as a whole; its ``what`` also states what to do."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__("error", file, "", what, "")


@dataclass
class Tally:
    """Counts of what was checked, the files and folders that were checked, and notes that are not errors.

    ``max_pixels`` is the maximum number of pixels in an image; 0 means no limit.
    """

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    looked_at: set[Path] = field(default_factory=set)
    max_pixels: int = MAX_PIXELS


def count_faults(file: Path, what: str, found: int, expected: int | None) -> Iterator[Fault]:
    """Yield an error if a number differs from that in the published data set; ``expected`` None accepts any number."""
    if expected is not None and found != expected:
        yield Fault(
            file,
            f"has {found:,} {what}, but the published data set has {expected:,}; unpack it again with --again, or use"
            " --any-size if this is only part of it",
        )
