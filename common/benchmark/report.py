"""The rows of ``mocodet benchmark``: what they hold, and how they are printed and written."""

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
    """One contestant beside its reference.

    Attributes:
        name: what was done, and how large it was.
        reference, contestant: who did it; a reference has a row of its own.
        unit: of ``value``: ``"s"``, or ``"images/s"``, ``"files/s"`` and the like.
        value: median over the rounds.
        ratio: how many times as fast as the reference, median of the pairs.
        pairs: how many pairs.
        limit: the contestant whose time is the lower bound of the others'; ``""``: none.
        limit_ratio: how many times as fast as the reference one would be that is as quick as the limit.
        share: how much of the contestant's time the limit takes, 0 to 1; median of the pairs, as ``limit_ratio``.
        clock: ``"CPU"`` or ``"wall"``.
        settings: what the part was run with.
        details: further figures of this part's rows, as they are printed.
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
        """Return what JSON can hold of it."""
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
    """Make a row of each contestant.

    Args:
        name: see `Row`.
        seconds: what `alternate` returned.
        reference: which contestant the others are compared with; its row comes first.
        clock: what timed them.
        items: how many of what one run handles, to give a rate in place of seconds.
        limit: the contestant that does no more than is needed at least, whose time bounds the others'.
        unbounded: contestants that do without that work.
        settings: see `Row`.
        details: by contestant.
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
    """Say what the figures were measured on."""
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
    """Write the rows of one comparison as a Markdown table under its name."""
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
