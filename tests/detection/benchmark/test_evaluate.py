"""Evaluators compared with detectron2's, which must give the same numbers."""

import pytest

from mocodet.detection.benchmark.evaluate import NAMES, check_equal, compare


@pytest.mark.parametrize("metric", ["voc", "coco"])
def test_compare__equal_numbers(metric):
    theirs, ours = compare(metric, images=40, detections=8, pairs=1)
    assert (theirs.contestant, ours.contestant) == NAMES[metric]
    assert theirs.details == ours.details
    assert float(ours.details["AP50"]) > 1


def test_check_equal__a_difference_is_refused():
    nan = float("nan")
    check_equal({"AP": 40.0, "AP-cat": nan}, {"AP": 40.0 + 1e-12, "AP-cat": nan})
    with pytest.raises(ValueError, match=r"the results differ: AP is 40.0 with detectron2 and 40.1 with mocodet$"):
        check_equal({"AP": 40.0, "AP50": 60.0}, {"AP": 40.1, "AP50": 60.0})
    with pytest.raises(ValueError, match=r"AP-cat is nan with detectron2 and 1.0 with mocodet"):
        check_equal({"AP-cat": nan}, {"AP-cat": 1.0})
