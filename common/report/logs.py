"""Curves from the ``metrics.json`` that detectron2 writes during training."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from .charts import Point

LOG_FILE = "metrics.json"
MOST_POINTS = 120  # of a curve on a page, one or two pixels each


def curve(records: Iterable[dict[str, Any]], key: str) -> list[Point]:
    """Return (iterations done, value) for each line with a finite ``key``; for a repeated iteration the last one.

    A resumed run repeats the iterations after its checkpoint. The evaluation after the last step is logged under the
    next iteration.
    """
    found, steps = {}, 0
    for record in records:
        if "lr" in record:
            steps = max(steps, record["iteration"] + 1)
        if key in record and math.isfinite(record[key]):
            found[record["iteration"] + 1] = float(record[key])
    return sorted({min(done, steps or done): value for done, value in sorted(found.items())}.items())


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most ``most`` points, as means of neighbours. The last point stays unchanged."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[begin : begin + size] for begin in range(0, len(points), size)]
    thinned = [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]
    return [*thinned[:-1], (points[-1][0], thinned[-1][1])]


def over_seeds(curves: Sequence[Sequence[Point]]) -> tuple[list[Point], list[Point] | None]:
    """Return the mean over curves at common points, and the band of one sample standard deviation around it.

    There is no band around a single curve.
    """
    tables = [dict(points) for points in curves]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    means = [(x, fmean(table[x] for table in tables)) for x in shared]
    if len(tables) < 2:
        return means, None
    spreads = [stdev(table[x] for table in tables) for x in shared]
    return means, [(mean - spread, mean + spread) for (_, mean), spread in zip(means, spreads, strict=True)]
