"""Findings of a reader in a file, besides its records: errors, repairs and notes."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mocodet.common.text import on_one_line

# error: a run refuses; repaired: the meaning is certain, and the log counts it; note: worth knowing, without loss.
Severity = Literal["error", "repaired", "note"]

FIRST = 3  # errors that a refusal shows


@dataclass(frozen=True)
class Finding:
    """Something that a reader found in a file.

    Attributes:
        severity: see `Severity`.
        file: the file.
        record: the part of it in messages, such as ``object 2 (cat)``; empty: the file as a whole.
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
        """Return the finding on one line that any terminal can show."""
        record = f"{self.record} " if self.record else ""
        record += f"(and {self.count - 1:,} more) " if self.count > 1 else ""
        line = f"{self.file}: {record}{self.what}" + (f"; {self.remedy}" if self.remedy else "")
        return on_one_line(line)


class Ledger:
    """Findings in one file: every error, and for each repair and note the first record and the number of records."""

    def __init__(self, file: Path):
        self.file = file
        self.errors: list[Finding] = []
        self._counted: dict[tuple[Severity, str, str], Finding] = {}

    def error(self, record: str, what: str, remedy: str) -> None:
        """Enter an error; arguments as in `Finding`."""
        self.errors.append(Finding("error", self.file, record, what, remedy))

    def count(self, severity: Severity, record: str, what: str, remedy: str) -> None:
        """Enter a repair or a note, which may concern many records; arguments as in `Finding`."""
        key = (severity, what, remedy)
        known = self._counted.get(key)
        self._counted[key] = (
            replace(known, count=known.count + 1) if known else Finding(severity, self.file, record, what, remedy)
        )

    def findings(self) -> list[Finding]:
        """Return all, errors first."""
        return [*self.errors, *self._counted.values()]


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return errors unchanged, and for equal repairs and notes the first, with their number."""
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
    """Refuse a data set in which a reader found errors.

    Args:
        name: name of the data set, for messages.
        findings: findings of any severity.

    Raises:
        ValueError: there are errors; the message, one line, has the first of them and their number.
    """
    errors = list(dict.fromkeys(str(finding) for finding in findings if finding.severity == "error"))
    if not errors:
        return
    number = "" if len(errors) == 1 else f"{len(errors):,} faults, such as "
    more = "" if len(errors) <= FIRST else f" | and {len(errors) - FIRST:,} more, which prepare-data --check lists"
    raise ValueError(f"data set {name}: {number}{' | '.join(errors[:FIRST])}{more}")


def log_repairs(name: str, findings: Iterable[Finding], logger: logging.Logger) -> None:
    """Log the repairs in a data set called ``name``, one line for each kind: the number and the first of them."""
    counts: Counter[str] = Counter()
    first: dict[str, Finding] = {}
    for finding in findings:
        if finding.severity == "repaired":
            counts[finding.remedy] += finding.count
            first.setdefault(finding.remedy, finding)
    for remedy, count in counts.items():
        logger.warning(f"data set {name}: {count:,} repaired, such as {first[remedy]}")
