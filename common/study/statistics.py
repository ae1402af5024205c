"""Means of trials, gaps between initialisations, and their uncertainty.

Two initialisations are trained with the same seeds. Each seed yields a pair of trials with the same order of images and
the same labelled images. A gap is the mean difference over the pairs, and its interval is that of the paired t test
(Student, "The probable error of a mean", Biometrika 1908). The test assumes that the differences come from one normal
distribution, and the interval refers to the mean over infinitely many seeds. All values are in points of the metric.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
POINTS = 0.5  # half a point: the gap that the paper's tables mark
POWER = 0.8  # fraction of studies that should detect this gap


@dataclass(frozen=True)
class Gap:
    """The difference between an initialisation and the reference, positive if the initialisation is better.

    Attributes:
        mean: mean difference over the pairs.
        deviation: sample standard deviation (n - 1) of the differences; None for one pair.
        low, high: 95 % interval of the mean over fine-tuning seeds, for these weights; None for one pair.
        n: number of pairs.
        image_low, image_high: 95 % interval over test images, for these trained models; None if their detections were
            not saved.
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
    """Return the 95 % interval of the mean according to Student's t distribution, or None for a single value."""
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
    """Compare trials with the trials of the reference that have the same seeds, in the same order.

    Raises:
        ValueError: there are no pairs, or a trial has no partner.
    """
    if len(values) != len(reference) or not values:
        raise ValueError(f"expected pairs of trials, got {len(values)} trials and {len(reference)} reference trials")
    differences = [own - other for own, other in zip(values, reference, strict=True)]
    low, high = interval(differences) or (None, None)
    return Gap(statistics.fmean(differences), deviation(differences), low, high, len(differences))


def seeds_to_show(deviation: float, points: float = POINTS) -> int:
    """Return the smallest number of seeds for which the 95 % interval extends at most ``points`` to either side.

    With this number of seeds, the interval of a measured gap of ``points`` excludes 0. For a true gap, see
    `seeds_to_find`.

    Args:
        deviation: observed standard deviation of the differences of pairs.
        points: half-width of the interval.

    Raises:
        ValueError: the deviation is negative or not finite, or the points are not positive.
    """
    _check(deviation, points)
    # The normal distribution yields a narrower interval, so it provides a lower bound to start from.
    n = max(2, math.ceil((statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation / points) ** 2))
    while half_width(deviation, n) > points:
        n += 1
    return n


def seeds_to_find(deviation: float, points: float = POINTS) -> int:
    """Return the smallest number of seeds with which 80 % of studies detect a true gap of ``points``.

    The number follows from the power of the paired t test (Cohen, Statistical Power Analysis for the Behavioral
    Sciences, 1988, chapter 2). The power is computed from the distribution of t squared, a noncentral F, because
    SciPy's noncentral t returns NaN for some gaps. Arguments and errors are the same as for `seeds_to_show`.
    """
    _check(deviation, points)
    if deviation == 0:
        return 2
    from scipy.stats import ncf

    def power(n: int) -> float:
        return float(ncf.sf(_quantile(n - 1) ** 2, 1, n - 1, n * (points / deviation) ** 2))

    least = seeds_to_show(deviation, points)  # with fewer seeds, far less than 80 % of studies detect the gap
    most = least
    while power(most) < POWER:
        most *= 2
    return bisect_left(range(most), POWER, lo=least, key=power)


def in_words(gap: Gap, name: str, reference: str) -> str:
    """Return a short phrase on whether ``name`` is better than ``reference``, or the two cannot be told apart."""
    if gap.low is None or gap.high is None:
        return "no interval, because there is only one pair of trials"
    if not gap.is_told:
        return "cannot be told apart"
    better, low, high = (name, gap.low, gap.high) if gap.mean > 0 else (reference, -gap.high, -gap.low)
    if gap.deviation == 0:
        return f"{better} is better by {bound(low)} points in each of the {gap.n} pairs"
    return f"{better} is better by {bound(low)} to {bound(high)} points"


def bound(value: float, sign: str = "") -> str:
    """Format a bound of an interval with one decimal place, or with more if it would round to 0.

    Args:
        value: bound in points.
        sign: ``"+"`` adds a plus sign to positive numbers.
    """
    digits = next((digits for digits in (1, 2, 3) if round(value, digits)), 1)
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # -0.0 becomes 0.0


def _check(deviation: float, points: float) -> None:
    if not (math.isfinite(deviation) and deviation >= 0 and math.isfinite(points) and points > 0):
        raise ValueError(
            f"expected a non-negative standard deviation and positive points, got {deviation} and {points}"
        )


@cache
def _quantile(degrees: int) -> float:
    """Return the half-width of the interval in standard errors."""
    from scipy.stats import t  # takes a second to import, and is not needed to start a study

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))
