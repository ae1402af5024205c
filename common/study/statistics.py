"""Means of trials, gaps between initialisations, and their uncertainty.

Two initialisations are trained with the same seeds, and each seed gives a pair: the same order of the images, the same
choice of labels. A gap is the mean difference of the pairs; its interval is that of the paired t test (Student, "The
probable error of a mean", Biometrika 1908). The test assumes that the differences come from one normal distribution;
the interval is for the mean over infinitely many seeds. All values are in the metrics' points.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
POINTS = 0.5  # half a point: the gap that the paper's tables mark
POWER = 0.8  # share of studies that should find it


@dataclass(frozen=True)
class Gap:
    """How much better an initialisation is than the reference.

    Attributes:
        mean: mean difference of the pairs.
        deviation: sample standard deviation (n - 1) of the differences; None for one pair.
        low, high: 95 % interval of the mean over seeds of fine-tuning, for these weights; None for one pair.
        n: number of pairs.
        image_low, image_high: 95 % interval over other test images of this kind, for these trained models; None if
            their detections have not been kept.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    n: int
    image_low: float | None = None
    image_high: float | None = None

    @property
    def is_told(self) -> bool:
        """Whether the interval over seeds excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by Student's t; None for a single value, which has no spread."""
    spread = deviation(values)
    if spread is None:
        return None
    mean, half = statistics.fmean(values), half_width(spread, len(values))
    return mean - half, mean + half


def half_width(spread: float, n: int) -> float:
    """Return the half-width of the 95 % interval of a mean of ``n`` values.

    Args:
        spread: the sample standard deviation of the values.
        n: at least 2.
    """
    return _quantile(n - 1) * spread / math.sqrt(n)


def paired_gap(values: Sequence[float], reference: Sequence[float]) -> Gap:
    """Compare trials with those of the reference that have the same seeds, in the same order.

    Raises:
        ValueError: there is no pair, or a trial has no partner.
    """
    if len(values) != len(reference) or not values:
        raise ValueError(f"expected pairs of trials, found {len(values)} and {len(reference)}")
    differences = [own - other for own, other in zip(values, reference, strict=True)]
    low, high = interval(differences) or (None, None)
    return Gap(statistics.fmean(differences), deviation(differences), low, high, len(differences))


def seeds_to_show(deviation: float, points: float = POINTS) -> int:
    """Return the least number of seeds for which the 95 % interval extends at most ``points`` to either side.

    A measured gap of ``points`` is then told from 0. See `seeds_to_find` for a true gap.

    Args:
        deviation: the observed standard deviation of the differences of pairs.
        points: half the width of the interval.

    Raises:
        ValueError: the deviation is negative or not a number, or points are not above 0.
    """
    _check(deviation, points)
    # The interval is wider than with the normal distribution, which therefore gives a start.
    n = max(2, math.ceil((statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation / points) ** 2))
    while half_width(deviation, n) > points:
        n += 1
    return n


def seeds_to_find(deviation: float, points: float = POINTS) -> int:
    """Return the least number of seeds with which 80 % of studies tell a true gap of ``points`` from 0.

    That is the power of the paired t test (Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter
    2), by the distribution of t squared, a noncentral F: SciPy's noncentral t is not a number for some gaps. Arguments
    and errors as those of `seeds_to_show`.
    """
    _check(deviation, points)
    if deviation == 0:
        return 2
    from scipy.stats import ncf

    def power(n: int) -> float:
        return float(ncf.sf(_quantile(n - 1) ** 2, 1, n - 1, n * (points / deviation) ** 2))

    least = seeds_to_show(deviation, points)  # with fewer, far less than 80 % of studies find it
    most = least
    while power(most) < POWER:
        most *= 2
    return bisect_left(range(most), POWER, lo=least, key=power)


def in_words(gap: Gap, name: str, reference: str) -> str:
    """Say in a few words whether ``name`` is better than ``reference``, or cannot be told from it."""
    if gap.low is None or gap.high is None:
        return "one pair of trials: no interval"
    if not gap.is_told:
        return "cannot be told apart"
    better, low, high = (name, gap.low, gap.high) if gap.mean > 0 else (reference, -gap.high, -gap.low)
    if gap.deviation == 0:
        return f"{better} is better by {bound(low)} points, in all {gap.n} pairs alike"
    return f"{better} is better by {bound(low)} to {bound(high)} points"


def bound(value: float, sign: str = "") -> str:
    """Format the end of an interval with one decimal, or with more if it would round to 0.

    Args:
        value: in points.
        sign: ``"+"`` writes it before positive numbers.
    """
    digits = next((digits for digits in (1, 2, 3) if round(value, digits)), 1)
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # -0.0 becomes 0.0


def _check(deviation: float, points: float) -> None:
    if not (math.isfinite(deviation) and deviation >= 0 and math.isfinite(points) and points > 0):
        raise ValueError(f"expected a standard deviation of 0 or more and points above 0, got {deviation} and {points}")


@cache
def _quantile(degrees: int) -> float:
    """Return the half-width of the interval in standard errors."""
    from scipy.stats import t  # takes a second, which starting a study does not need

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))
