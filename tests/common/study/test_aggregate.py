import json
import math

import pytest

from mocodet.common.study.aggregate import aggregate, read_metrics


def write_run(folder, lines, max_iter=100):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"SOLVER:\n  MAX_ITER: {max_iter}\n")
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def box(iteration, ap50, ap, ap75):
    return {"iteration": iteration, "bbox/AP50": ap50, "bbox/AP": ap, "bbox/AP75": ap75, "bbox/AP-disc": 1.0}


def result(ap50, ap, ap75):
    return {"bbox/AP50": ap50, "bbox/AP": ap, "bbox/AP75": ap75}


def test_read_metrics__last_line_that_has_the_metric(tmp_path):
    lines = [{"iteration": 49, "total_loss": 1.0}, box(49, 10.0, 5.0, 4.0), box(100, 30.0, 20.0, 10.0)]
    folder = write_run(tmp_path, [*lines, {"iteration": 100, "total_loss": 0.5}])
    assert read_metrics(folder) == result(30.0, 20.0, 10.0)


def test_read_metrics__line_of_the_last_step(tmp_path):
    assert read_metrics(write_run(tmp_path, [box(99, 3.0, 2.0, 1.0)])) == result(3.0, 2.0, 1.0)


def test_read_metrics__masks(tmp_path):
    masks = {"segm/AP50": 6.0, "segm/AP": 5.0, "segm/AP75": 4.0}
    folder = write_run(tmp_path, [{**box(100, 3.0, 2.0, 1.0), **masks, "segm/APs": 0.1}])
    assert read_metrics(folder) == {**result(3.0, 2.0, 1.0), **masks}


def test_read_metrics__evaluation_on_the_way_is_no_result(tmp_path):
    with pytest.raises(ValueError, match=r"bbox/AP50 is of iteration 98, the run has 100"):
        read_metrics(write_run(tmp_path, [box(98, 3.0, 2.0, 1.0), {"iteration": 99, "total_loss": 1.0}]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_read_metrics__not_finite(tmp_path, value):
    with pytest.raises(ValueError, match=r"bbox/AP75 is (nan|inf)"):
        read_metrics(write_run(tmp_path, [box(100, 3.0, 2.0, value)]))


def test_read_metrics__no_evaluation(tmp_path):
    with pytest.raises(ValueError, match=r"metrics of no task; expected those of one of bbox, .*sem_seg"):
        read_metrics(write_run(tmp_path, [{"iteration": 99, "total_loss": 1.0}]))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"segm/AP50": 5.0}, r"has segm/AP50, but no segm/AP$"),
        ({"keypoints/AP": 5.0}, r"has keypoints/AP, but no keypoints/AP50, keypoints/AP75$"),
    ],
)
def test_read_metrics__part_of_a_task(tmp_path, part, message):
    with pytest.raises(ValueError, match=message):
        read_metrics(write_run(tmp_path, [{**box(100, 3.0, 2.0, 1.0), **part}]))


@pytest.mark.parametrize(
    "found",
    [
        {"segm/AP50": 5.0, "segm/AP": 4.0},  # Cityscapes instances
        {"keypoints/AP50": 5.0, "keypoints/AP": 4.0, "keypoints/AP75": 3.0},
        {"sem_seg/mIoU": 40.0},
    ],
)
def test_read_metrics__of_every_task(tmp_path, found):
    assert read_metrics(write_run(tmp_path, [{"iteration": 100, **found, "sem_seg/IoU-cat": 1.0}])) == found


def test_read_metrics__damaged_line(tmp_path):
    folder = write_run(tmp_path, [box(100, 3.0, 2.0, 1.0)])
    with (folder / "metrics.json").open("a") as handle:
        handle.write('{"iterat')
    with pytest.raises(ValueError, match=r"metrics.json, line 2 is not JSON"):
        read_metrics(folder)


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml"])
def test_read_metrics__missing_file(tmp_path, name):
    (write_run(tmp_path, [box(100, 3.0, 2.0, 1.0)]) / name).unlink()
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
