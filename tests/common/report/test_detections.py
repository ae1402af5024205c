import pytest

from mocodet.common.report.detections import enlarged, iou, matched


def test_iou():
    assert iou([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(50 / 150)
    assert iou([0, 0, 10, 10], [10, 0, 20, 10]) == 0
    assert iou([2, 3, 7, 9], [2, 3, 7, 9]) == 1


def test_matched__an_object_is_found_once_by_the_highest_score_of_its_class():
    truth = [{"class": "cat", "box": [0, 0, 10, 10], "crowd": False}]
    truth.append({"class": "dog", "box": [20, 0, 30, 10], "crowd": False})
    truth.append({"class": "dog", "box": [50, 0, 90, 40], "crowd": True})
    detections = [
        {"class": "cat", "box": [1, 0, 10, 10], "score": 0.5},
        {"class": "cat", "box": [2, 0, 10, 10], "score": 0.9},
        {"class": "cat", "box": [20, 0, 30, 10], "score": 0.8},
        {"class": "dog", "box": [25, 0, 35, 10], "score": 0.7},
        {"class": "dog", "box": [60, 0, 70, 10], "score": 0.6},
        {"class": "cat", "box": [60, 0, 70, 10], "score": 0.6},
    ]
    assert matched(truth, detections) == ["wrong", "right", "wrong", "wrong", "ignored", "wrong"]


def test_enlarged__a_small_image_is_as_large_as_others():
    truth = [{"class": "cat", "box": [6, 12, 30, 24], "crowd": False}]
    small = {"name": "a", "width": 60, "height": 48, "truth": truth, "detections": []}
    large = enlarged(small)
    assert (large["width"], large["height"]) == (240, 192)
    assert large["truth"] == [{**truth[0], "box": [24, 48, 120, 96]}]
    assert small["truth"][0]["box"] == [6, 12, 30, 24]
    assert enlarged(large) == large
