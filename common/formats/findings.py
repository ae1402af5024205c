"""What a reader finds in a file besides its records: errors, repairs and notes."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mocodet.common.text import on_one_line

# error: a run stops. repaired: the meaning is unambiguous, so the run continues and logs the number of repairs.
# note: worth knowing, but no data is lost.
Severity = Literal["error", "repaired", "note"]

FIRST = 3  # number of errors that a message shows


@dataclass(frozen=True)
class Finding:
    """An error, a repair or a note about a file.

    Attributes:
        severity: see `Severity`.
        file: the file.
        record: the part of the file that messages name, such as ``object 2 (cat)``; empty for the file as a whole.
        what: what was found, and what was expected.
        remedy: what to do or, for a repair, what was done.
        count: number of records with this finding; ``record`` is the first of them.
    """

    severity: Severity
    file: Path
    record: str
    what: str
    remedy: str
    count: int = 1

    def __str__(self) -> str:
        """Return the finding as a single line that any terminal can display."""
        more = f" (and {self.count - 1:,} more)" if self.count > 1 else ""
        where = f"{self.file}: {self.record}{more} " if self.record else f"{self.file}{more}: "
        line = f"{where}{self.what}" + (f"; {self.remedy}" if self.remedy else "")
        return on_one_line(line)


class Ledger:
    """Collects the findings in one file: all errors and, for each repair and note, the first record and a count."""

    def __init__(self, file: Path):
        self.file = file
        self.errors: list[Finding] = []
        self._counted: dict[tuple[Severity, str, str], Finding] = {}

    def error(self, record: str, what: str, remedy: str) -> None:
        """Add an error; see `Finding` for the arguments."""
        self.errors.append(Finding("error", self.file, record, what, remedy))

    def count(self, severity: Severity, record: str, what: str, remedy: str) -> None:
        """Add a repair or a note, which may apply to many records; see `Finding` for the arguments."""
        key = (severity, what, remedy)
        known = self._counted.get(key)
        self._counted[key] = (
            replace(known, count=known.count + 1) if known else Finding(severity, self.file, record, what, remedy)
        )

    def findings(self) -> list[Finding]:
        """Return all findings, errors first."""
        return [*self.errors, *self._counted.values()]


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Merge equal repairs and equal notes into the first one and add up their counts; leave errors unchanged."""
    found: list[Finding] = []
    places: dict[tuple[Severity, str, str], int] = {}
    for finding in findings:
        key = (finding.severity, finding.what, finding.remedy)
        if finding.severity != "error" and key in places:
            first = found[places[key]]
            found[places[key]] = replace(first, count=first.count + finding.count)
        else:
            places[key] = len(found)
            found.append(finding)
    return found


def refuse_errors(name: str, findings: Iterable[Finding]) -> None:
    """Raise an exception if a reader found errors in a data set.

    Args:
        name: name of the data set, for messages.
        findings: findings of any severity.

    Raises:
        ValueError: there are errors; the message shows the first of them and their number on one line.
    """
    errors = list(dict.fromkeys(str(finding) for finding in findings if finding.severity == "error"))
    if not errors:
        return
    number = "" if len(errors) == 1 else f"{len(errors):,} errors, including "
    more = (
        ""
        if len(errors) <= FIRST
        else f" | and {len(errors) - FIRST:,} more; use prepare-data --check to list all of them"
    )
    raise ValueError(f"data set {name}: {number}{' | '.join(errors[:FIRST])}{more}")


def log_repairs(name: str, findings: Iterable[Finding], logger: logging.Logger) -> None:
    """Log the repairs in the data set ``name``, one line per kind with the number of repairs and the first one."""
    counts: Counter[str] = Counter()
    first: dict[str, Finding] = {}
    for finding in findings:
        if finding.severity == "repaired":
            counts[finding.remedy] += finding.count
            first.setdefault(finding.remedy, finding)
    for remedy, count in counts.items():
        logger.warning(f"data set {name}: {count:,} repaired, for example {first[remedy]}")
