import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from mocodet.common.study.statistics import (
    Gap,
    bound,
    deviation,
    in_words,
    interval,
    paired_gap,
    seeds_to_find,
    seeds_to_show,
)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_statistics__equal_scipys(seeds):
    rng = np.random.default_rng(seeds)
    for _ in range(20):
        own, reference = rng.normal(10, 2, (2, seeds))
        gap = paired_gap(own.tolist(), reference.tolist())
        theirs = stats.ttest_rel(own, reference).confidence_interval(0.95)
        assert (gap.low, gap.high) == pytest.approx((theirs.low, theirs.high))
        assert gap.n == seeds
        assert gap.mean == pytest.approx(np.mean(own - reference))
        assert gap.deviation == pytest.approx(stats.tstd(own - reference))
        assert deviation(own.tolist()) == pytest.approx(stats.tstd(own))
        theirs = stats.t.interval(0.95, seeds - 1, loc=np.mean(own), scale=stats.sem(own))
        assert interval(own.tolist()) == pytest.approx(theirs)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_paired_gap__simulated_studies_cover_the_true_gap(seeds):
    """2,000 studies: what a seed does to both initialisations, and what it does to each, in truth 1.5 points apart."""
    rng = np.random.default_rng(seeds)
    shared = rng.normal(0, 3, (2000, seeds))
    own, reference = (
        level + shared + rng.normal(0, spread, shared.shape) for level, spread in ((11.5, 0.8), (10, 0.4))
    )
    gaps = [paired_gap(*pair) for pair in zip(own.tolist(), reference.tolist(), strict=True)]
    assert 0.93 < np.mean([gap.low <= 1.5 <= gap.high for gap in gaps]) < 0.97


def test_paired_gap__one_pair_and_no_spread():
    assert paired_gap([3.0], [1.0]) == Gap(2.0, None, None, None, 1)
    assert paired_gap([3.0, 4.0], [1.0, 2.0]) == Gap(2.0, 0.0, 2.0, 2.0, 2)
    assert interval([3.0]) is None


@pytest.mark.parametrize(("own", "reference"), [([], []), ([1.0, 2.0], [1.0])])
def test_paired_gap__refuses_what_is_no_pair(own, reference):
    with pytest.raises(ValueError, match="expected pairs of trials"):
        paired_gap(own, reference)


@pytest.mark.parametrize("spread", [0.1, 0.4, 1.0, 3.3])
@pytest.mark.parametrize("points", [0.5, 2.0])
def test_seeds_to_show__is_the_least_number(spread, points):
    n = seeds_to_show(spread, points)
    widths = {m: stats.t.interval(0.95, m - 1, scale=spread / math.sqrt(m))[1] for m in range(2, n + 1)}
    assert [m for m, half in widths.items() if half <= points] == [n]


def test_seeds_to_show__no_spread_and_nonsense():
    assert seeds_to_show(0.0) == seeds_to_find(0.0) == 2
    for spread, points in ((-1.0, 0.5), (math.nan, 0.5), (1.0, 0.0)):
        with pytest.raises(ValueError, match="expected a non-negative standard deviation"):
            seeds_to_show(spread, points)


# With 0.055 and two seeds SciPy's noncentral t is not a number.
@pytest.mark.parametrize("spread", [0.055, 0.2, 0.6, 1.0])
def test_seeds_to_find__finds_the_gap_in_four_of_five_simulated_studies(spread):
    n, rng = seeds_to_find(spread, 0.5), np.random.default_rng(0)

    def found(seeds):
        return np.mean(stats.ttest_1samp(rng.normal(0.5, spread, (20000, seeds)), 0, axis=1).pvalue < 0.05)

    assert found(n) > 0.79
    assert found(n - 1) < 0.81


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Gap(2.4, 1.0, 1.16, 3.74, 5), "moco is better by 1.2 to 3.7 points"),
        (Gap(-2.4, 1.0, -3.74, -1.16, 5), "random is better by 1.2 to 3.7 points"),
        (Gap(2.4, 1.0, -0.1, 4.9, 5), "cannot be told apart"),
        (Gap(0.0, 0.0, 0.0, 0.0, 5), "cannot be told apart"),
        (Gap(2.4, 1.0, 0.012, 4.788, 5), "moco is better by 0.01 to 4.8 points"),
        (Gap(2.0, 0.0, 2.0, 2.0, 3), "moco is better by 2.0 points in each of the 3 pairs"),
        (Gap(2.4, None, None, None, 1), "no interval, because there is only one pair of trials"),
    ],
)
def test_in_words(gap, words):
    assert in_words(gap, "moco", "random") == words


def test_bound__does_not_look_like_0_unless_it_is():
    assert [bound(value, "+") for value in (0.04, -0.04, 0.004, 0.0, -1.25, 3.0)] == [
        "+0.04", "-0.04", "+0.004", "+0.0", "-1.2", "+3.0"
    ]  # fmt: skip


def test_statistics__import_scipy_only_to_compute():
    script = "import sys, mocodet.common.study.tables as t; print(*{'scipy', 'numpy'}.intersection(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
