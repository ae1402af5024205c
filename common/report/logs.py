"""Curves from the ``metrics.json`` file that detectron2 writes during training."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from .charts import Point

LOG_FILE = "metrics.json"
MOST_POINTS = 120  # maximum number of points of a displayed curve, which are one or two pixels apart


def curve(records: Iterable[dict[str, Any]], key: str) -> list[Point]:
    """Return (completed iterations, value) for each line with a finite value of ``key``.

    A resumed run repeats the iterations after its checkpoint. For a repeated iteration, the last value is returned. The
    evaluation after the last step is logged at the next iteration.
    """
    found, steps = {}, 0
    for record in records:
        if "lr" in record:
            steps = max(steps, record["iteration"] + 1)
        if key in record and math.isfinite(record[key]):
            found[record["iteration"] + 1] = float(record[key])
    return sorted({min(done, steps or done): value for done, value in sorted(found.items())}.items())


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most ``most`` points, which are means of neighbouring points. The last x value stays unchanged."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[begin : begin + size] for begin in range(0, len(points), size)]
    thinned = [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]
    return [*thinned[:-1], (points[-1][0], thinned[-1][1])]


def over_seeds(curves: Sequence[Sequence[Point]]) -> tuple[list[Point], list[Point] | None]:
    """Return the mean of the curves at common points, and a band of one sample standard deviation around the mean.

    For a single curve, the band is None.
    """
    tables = [dict(points) for points in curves]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    means = [(x, fmean(table[x] for table in tables)) for x in shared]
    if len(tables) < 2:
        return means, None
    spreads = [stdev(table[x] for table in tables) for x in shared]
    return means, [(mean - spread, mean + spread) for (_, mean), spread in zip(means, spreads, strict=True)]
