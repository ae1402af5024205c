import json
import math
from statistics import fmean

import pytest

from mocodet.common.report.logs import curve, over_seeds, thin


def test_curve__resumed_run_and_last_evaluation():
    steps = [{"iteration": n, "lr": 0.1, "loss": float(n)} for n in (9, 19, 29)]
    again = [{"iteration": 19, "lr": 0.1, "loss": 5.0}, {"iteration": 29, "lr": 0.1, "loss": math.nan}]
    final = [{"iteration": 19, "bbox/AP": 1.0}, {"iteration": 30, "bbox/AP": 2.0}]
    records = json.loads(json.dumps([*steps, *again, *final]))
    assert curve(records, "loss") == [(10, 9.0), (20, 5.0), (30, 29.0)]
    assert curve(records, "bbox/AP") == [(20, 1.0), (30, 2.0)]  # the run has 30 iterations
    assert curve(records, "absent") == []


def test_thin__means_of_neighbours():
    points = [(n, n * n % 17) for n in range(250)]
    thinned = thin(points, 120)
    assert len(thinned) == 84
    assert thinned[0] == (1, fmean(y for _, y in points[:3]))
    assert thinned[-1] == (249, points[-1][1])
    assert thin(points[:120], 120) == points[:120]


def test_over_seeds__where_all_have_a_point():
    means, band = over_seeds([[(10, 1.0), (20, 2.0)], [(10, 3.0), (30, 9.0)]])
    assert means == [(10, 2.0)]
    assert band == [pytest.approx((2 - math.sqrt(2), 2 + math.sqrt(2)))]
    assert over_seeds([[(10, 1.0)]]) == ([(10, 1.0)], None)
    assert over_seeds([]) == ([], None)
