import json
import math
import os

import pytest

from mocodet.detection.study.aggregate import aggregate, read_metrics


def write_run(folder, results, late=True):
    """Leave what a run leaves; ``results``: of one data set, ``late``: of the evaluation after the last iteration."""
    (folder / "results.json").write_text(json.dumps({"mine": results}))
    (folder / "model_final.pth").touch()
    os.utime(folder / "model_final.pth", ns=(0, 10**10))
    os.utime(folder / "results.json", ns=(0, 2 * 10**10 if late else 10**9))
    return folder


def box(ap50, ap, ap75):
    return {"AP50": ap50, "AP": ap, "AP75": ap75, "AP-disc": 1.0}


def result(ap50, ap, ap75):
    return {"bbox/AP50": ap50, "bbox/AP": ap, "bbox/AP75": ap75}


def test_read_metrics__masks(tmp_path):
    masks = {"AP50": 6.0, "AP": 5.0, "AP75": 4.0, "APs": None}
    folder = write_run(tmp_path, {"bbox": box(3.0, 2.0, 1.0), "segm": masks})
    assert read_metrics(folder) == {**result(3.0, 2.0, 1.0), "segm/AP50": 6.0, "segm/AP": 5.0, "segm/AP75": 4.0}


def test_read_metrics__evaluation_on_the_way_is_no_result(tmp_path):
    with pytest.raises(ValueError, match=r"on the way, for model_final.pth is newer"):
        read_metrics(write_run(tmp_path, {"bbox": box(3.0, 2.0, 1.0)}, late=False))


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_read_metrics__not_finite(tmp_path, value):
    with pytest.raises(ValueError, match=r"bbox/AP75 is (None|nan|inf)"):
        read_metrics(write_run(tmp_path, {"bbox": box(3.0, 2.0, value)}))


def test_read_metrics__no_task(tmp_path):
    with pytest.raises(ValueError, match=r"metrics of no task; expected those of one of bbox, .*sem_seg"):
        read_metrics(write_run(tmp_path, {"count": {"error": 1.0}}))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"segm": {"AP50": 5.0}}, r"has bbox/.* segm/AP50, but no segm/AP$"),
        ({"keypoints": {"AP": 5.0}}, r"has bbox/.* keypoints/AP, but no keypoints/AP50, keypoints/AP75$"),
    ],
)
def test_read_metrics__part_of_a_task(tmp_path, part, message):
    with pytest.raises(ValueError, match=message):
        read_metrics(write_run(tmp_path, {"bbox": box(3.0, 2.0, 1.0), **part}))


@pytest.mark.parametrize(
    ("task", "found"),
    [
        ("segm", {"AP50": 5.0, "AP": 4.0}),  # Cityscapes instances
        ("keypoints", {"AP50": 5.0, "AP": 4.0, "AP75": 3.0}),
        ("sem_seg", {"mIoU": 40.0}),
    ],
)
def test_read_metrics__of_every_task(tmp_path, task, found):
    expected = {f"{task}/{metric}": value for metric, value in found.items()}
    assert read_metrics(write_run(tmp_path, {task: {**found, "IoU-cat": 1.0}})) == expected


def test_read_metrics__several_data_sets(tmp_path):
    folder = write_run(tmp_path, {})
    (folder / "results.json").write_text(json.dumps({name: {"bbox": box(3.0, 2.0, 1.0)} for name in ("a", "b")}))
    with pytest.raises(ValueError, match="metrics of a, b; a study compares those of one"):
        read_metrics(folder)


def test_read_metrics__damaged_file(tmp_path):
    folder = write_run(tmp_path, {"bbox": box(3.0, 2.0, 1.0)})
    (folder / "results.json").write_text('{"min')
    with pytest.raises(ValueError, match=r"results.json is not JSON"):
        read_metrics(folder)


@pytest.mark.parametrize("name", ["results.json", "model_final.pth"])
def test_read_metrics__missing_file(tmp_path, name):
    (write_run(tmp_path, {"bbox": box(3.0, 2.0, 1.0)}) / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        read_metrics(tmp_path)


def test_aggregate__by_hand():
    moco = [result(10.0, 4.0, 1.0), result(12.0, 6.0, 1.0), result(14.0, 8.0, 4.0)]
    random = [result(9.0, 5.0, 1.0), result(9.0, 6.0, 3.0), result(12.0, 7.0, 5.0)]
    reference, other = aggregate({"moco": moco, "random": random}, "random")
    assert (reference.init, reference.n_trials) == ("random", 3)
    assert (other.init, other.n_trials) == ("moco", 3)
    # means 10, 6, 3; squared deviations 6, 2, 8, divided by n - 1 = 2
    assert [reference.metrics[key].mean for key in moco[0]] == pytest.approx([10.0, 6.0, 3.0])
    assert [reference.metrics[key].deviation for key in moco[0]] == pytest.approx([3**0.5, 1.0, 2.0])
    assert [reference.metrics[key].gap for key in moco[0]] == [None] * 3
    assert [other.metrics[key].mean for key in moco[0]] == pytest.approx([12.0, 6.0, 2.0])
    assert [other.metrics[key].deviation for key in moco[0]] == pytest.approx([2.0, 2.0, 3**0.5])
    assert [other.metrics[key].gap for key in moco[0]] == pytest.approx([2.0, 0.0, -1.0])


def test_aggregate__one_trial_has_no_deviation():
    (row,) = aggregate({"random": [result(3.0, 2.0, 1.0)]}, "random")
    assert all(statistic.deviation is None for statistic in row.metrics.values())


def test_aggregate__order_of_the_others_is_kept():
    trials = [result(3.0, 2.0, 1.0)]
    rows = aggregate({"c": trials, "a": trials, "b": trials}, "b")
    assert [row.init for row in rows] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"moco": [result(3.0, 2.0, 1.0)]}, "reference 'random' is not among"),
        ({"random": []}, "at least one"),
        ({"random": [result(3.0, 2.0, 1.0)] * 2, "moco": [result(3.0, 2.0, 1.0)]}, "same number of trials"),
        ({"random": [result(3.0, 2.0, 1.0), {"bbox/AP": 1.0}]}, "random, trial 1 has the metrics"),
        ({"random": [result(3.0, math.nan, 1.0)]}, "random, trial 0: bbox/AP is not a finite number"),
    ],
)
def test_aggregate__refuses(results, message):
    with pytest.raises(ValueError, match=message):
        aggregate(results, "random")
