"""What a check finds: faults, each told on one line, and what it has looked at."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """Something wrong: the file, and what is wrong with it and what to do, on one line that any terminal can show."""

    file: Path
    what: str

    def __str__(self) -> str:
        line = f"{self.file}: {self.what}"  # names in it may hold anything
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


@dataclass
class Tally:
    """What a check has looked at, counted for its summary and by file and folder; what it noticed that is no fault."""

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    looked_at: set[Path] = field(default_factory=set)


def count_faults(file: Path, what: str, found: int, expected: int | None) -> Iterator[Fault]:
    """Yield a fault unless there are as many as in the published data set; ``expected`` None: any number will do."""
    if expected is not None and found != expected:
        yield Fault(
            file,
            f"counts differ: {found:,} {what}, the published data set has {expected:,}; unpack it again with"
            " --again, or give --any-size if this is a part of it",
        )
