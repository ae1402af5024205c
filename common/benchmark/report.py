"""The result rows of ``mocodet benchmark``: their content, and their formatting as tables and JSON."""

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from ..cores import available_cores
from .alternate import Clock, Seconds, Spread, ratio


@dataclass(frozen=True)
class Row:
    """One implementation compared with its reference.

    Attributes:
        name: name of the benchmark, including its size.
        reference, contestant: names of the reference and of the implementation. The reference also has its own row.
        unit: unit of ``value``, such as ``"s"``, ``"images/s"`` or ``"files/s"``.
        value: median over the rounds.
        ratio: speed relative to the reference, as the median and quartiles over the pairs.
        pairs: number of pairs.
        limit: implementation whose time is a lower bound for the others, or ``""``.
        limit_ratio: speed of the limit relative to the reference.
        share: time of the limit as a fraction of the contestant's time, 0 to 1; a median over the pairs, like
            ``limit_ratio``.
        clock: ``"CPU"`` or ``"wall"``.
        settings: settings of the benchmark.
        details: further values for the table, as printed.
        machine: see `machine`.
    """

    name: str
    reference: str
    contestant: str
    unit: str
    value: float
    ratio: Spread
    pairs: int
    clock: str
    limit: str = ""
    limit_ratio: float | None = None
    share: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the row as a mapping of JSON types."""
        return asdict(self) | {"ratio": self.ratio._asdict()}


def rows_of(
    name: str,
    seconds: Seconds,
    *,
    reference: str,
    clock: Clock,
    items: tuple[float, str] | None = None,
    limit: str = "",
    unbounded: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    details: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Row]:
    """Create a row for each implementation.

    Args:
        name: see `Row`.
        seconds: result of `alternate`.
        reference: implementation that the others are compared with. Its row comes first.
        clock: clock that timed the runs.
        items: number and name of the items per run, for reporting a rate instead of seconds.
        limit: implementation that does only the necessary work, so that its time is a lower bound for the others.
        unbounded: implementations that do not need to do this work.
        settings: see `Row`.
        details: see `Row`; keyed by implementation.
    """
    medians = {who: Spread.of(values).median for who, values in seconds.items()}
    others = [who for who in seconds if who != reference]
    return [
        Row(
            name=name,
            reference=reference,
            contestant=who,
            unit="s" if items is None else f"{items[1]}/s",
            value=medians[who] if items is None else items[0] / medians[who],
            ratio=ratio(seconds, reference, who),
            pairs=len(seconds[who]),
            clock=clock.name,
            limit=limit,
            limit_ratio=ratio(seconds, reference, limit).median if limit else None,
            share=ratio(seconds, limit, who).median if limit and who not in unbounded else None,
            settings=settings or {},
            details=(details or {}).get(who, {}),
            machine=machine(),
        )
        for who in (reference, *others)
    ]


def machine() -> dict[str, Any]:
    """Describe the machine on which the measurements run."""
    found = {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(rows: Sequence[Row]) -> str:
    """Format the rows of one comparison as a Markdown table with a title."""
    first = rows[0]
    columns = list(dict.fromkeys(column for row in rows for column in row.details))
    bounded = first.limit_ratio is not None
    headers = ["", first.unit, "times the reference", "quartiles", *(["of the limit"] if bounded else []), *columns]
    lines = [
        [
            row.contestant,
            f"{row.value:.4g}",
            f"{row.ratio.median:.2f}",
            f"{row.ratio.low:.2f}–{row.ratio.high:.2f}",
            *(["" if row.share is None else f"{row.share:.0%}"] if bounded else []),
            *(row.details.get(column, "") for column in columns),
        ]
        for row in rows
    ]
    title = f"**{first.name}** ({first.clock} time, median of {first.pairs})"
    if bounded:
        title += f"; limit, {first.limit}: {first.limit_ratio:.2f} times the reference"
    return f"{title}\n\n{tabulate(lines, headers, 'github', disable_numparse=True)}\n"
