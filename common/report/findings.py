"""The findings of a study, expressed in sentences."""

from collections.abc import Mapping, Sequence

from mocodet.common.study.aggregate import Row
from mocodet.common.study.statistics import bound
from mocodet.common.study.tables import metric_name

from .numbers import signed


def metric_names(keys: Sequence[str]) -> dict[str, str]:
    """Return readable names of metrics: ``bbox/AP50`` becomes AP50, or AP50 box if there are multiple tasks."""
    several = len({key.split("/")[0] for key in keys}) > 1
    return {key: metric_name(key) if several else key.split("/")[1] for key in keys}


def compare(row: Row, reference: str) -> str:
    """Return a sentence on whether an initialisation is better than the reference, based on the gap intervals.

    Args:
        row: row of the initialisation, with a gap in each metric that it shares with the reference.
        reference: name of the reference.
    """
    names = metric_names(list(row.metrics))
    gaps = {names[key]: cell.gap for key, cell in row.metrics.items() if cell.gap is not None}
    if not gaps:
        return f"{row.init} and {reference} have no finished trials with the same seed."
    known = {name: (gap.low, gap.high) for name, gap in gaps.items() if gap.low is not None and gap.high is not None}
    if not known:
        differences = _listed([f"{signed(gap.mean)} {name}" for name, gap in gaps.items()])
        return (
            f"{row.init} differs from {reference} by {differences} in a single pair of trials, which may be due to"
            " chance."
        )
    better = {name: bounds for name, bounds in known.items() if bounds[0] > 0}
    worse = {name: (-bounds[1], -bounds[0]) for name, bounds in known.items() if bounds[1] < 0}
    alike = {name: bounds for name, bounds in known.items() if bounds[0] <= 0 <= bounds[1]}
    if not better and not worse:
        return f"{row.init} cannot be told apart from {reference} ({_bounds(alike)})."
    clauses = []
    if better:
        clauses.append(f"better than {reference} by {_ranges(better)}")
    if worse:
        clauses.append(f"worse than {reference} by {_ranges(worse)}")
    sentence = f"{row.init} is {' and '.join(clauses)}"
    if alike:
        sentence += f"; in {_listed(list(alike))}, the two cannot be told apart ({_bounds(alike)})"
    return f"{sentence}."


def compare_others(pairs: Sequence[tuple[str, Row]]) -> list[str]:
    """Return sentences that compare the initialisations other than the reference, if their gaps have intervals.

    Args:
        pairs: for each pair of initialisations, the name of the first, and the row of the second with its gaps to the
            first.
    """
    pairs = [
        (other, row)
        for other, row in pairs
        if any(cell.gap and cell.gap.low is not None for cell in row.metrics.values())
    ]
    alike = [(other, row) for other, row in pairs if not _told_apart(row)]
    sentences = [compare(row, other) for other, row in pairs if _told_apart(row)]
    names = list(dict.fromkeys([other for other, _ in pairs] + [row.init for _, row in pairs]))
    if len(alike) == 1:
        sentences.append(compare(alike[0][1], alike[0][0]))
    elif alike and not sentences:
        sentences.append(f"No two of {_listed(names)} can be told apart.")
    elif alike:
        told = "; ".join(f"{row.init} and {other}" for other, row in alike)
        sentences.append(f"These pairs cannot be told apart: {told}.")
    return sentences


def _told_apart(row: Row) -> bool:
    return any(cell.gap is not None and cell.gap.is_told for cell in row.metrics.values())


def _ranges(bounds: Mapping[str, tuple[float, float]]) -> str:
    return _listed([f"{_bound(low)} to {_bound(high)} {name}" for name, (low, high) in bounds.items()])


def _bounds(bounds: Mapping[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name} {_bound(low)} to {_bound(high)}" for name, (low, high) in bounds.items())


def _bound(value: float) -> str:
    return bound(value).replace("-", "−")


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
