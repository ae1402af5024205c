import json
import math

import pytest

from mocodet.common.study.aggregate import aggregate, read_metrics
from mocodet.common.study.statistics import paired_gap
from tests.common.study.contents import content_of


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
    with pytest.raises(ValueError, match=r"bbox/AP50 was logged at iteration 98, but the run has 100"):
        read_metrics(write_run(tmp_path, [box(98, 3.0, 2.0, 1.0), {"iteration": 99, "total_loss": 1.0}]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_read_metrics__not_finite(tmp_path, value):
    with pytest.raises(ValueError, match=r"finite number for bbox/AP75 at iteration 100, found (nan|inf)"):
        read_metrics(write_run(tmp_path, [box(100, 3.0, 2.0, value)]))


def test_read_metrics__no_evaluation(tmp_path):
    with pytest.raises(ValueError, match=r"no task metrics; expected the metrics of at least one of bbox, .*sem_seg"):
        read_metrics(write_run(tmp_path, [{"iteration": 99, "total_loss": 1.0}]))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"segm/AP50": 5.0}, r"contains segm/AP50, but not segm/AP$"),
        ({"keypoints/AP": 5.0}, r"contains keypoints/AP, but not keypoints/AP50, keypoints/AP75$"),
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


@pytest.mark.parametrize("torn", ['{"iterat', '{"iteration": 100, "bbox/AP": 9.0, "bb', "\0\0\0"])
def test_read_metrics__last_line_that_breaks_off_is_passed_over(tmp_path, torn):
    folder = write_run(tmp_path, [box(100, 3.0, 2.0, 1.0)])
    with (folder / "metrics.json").open("a") as handle:
        handle.write(torn)
    assert read_metrics(folder) == result(3.0, 2.0, 1.0)
    with (folder / "metrics.json").open("a") as handle:
        handle.write(f"\n{json.dumps(box(100, 3.0, 2.0, 1.0))}\n")
    with pytest.raises(ValueError, match=r"metrics.json, line 2 is not JSON: '.{3}"):
        read_metrics(folder)


def test_read_metrics__last_line_without_its_end_counts(tmp_path):
    folder = write_run(tmp_path, [box(100, 3.0, 2.0, 1.0)])
    text = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(text + json.dumps(box(100, 6.0, 5.0, 4.0)))
    assert read_metrics(folder) == result(6.0, 5.0, 4.0)


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml"])
def test_read_metrics__missing_file(tmp_path, name):
    (write_run(tmp_path, [box(100, 3.0, 2.0, 1.0)]) / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", " is empty"),
        ("SOLVER: {", ", line 1: expected the node content"),
        ("SOLVER: {}", ": expected a number of iterations in SOLVER.MAX_ITER, found None"),
        ("SOLVER: {MAX_ITER: soon}", ": expected a number of iterations in SOLVER.MAX_ITER, found 'soon'"),
    ],
)
def test_read_metrics__damaged_config(tmp_path, config, message):
    folder = write_run(tmp_path, [box(100, 3.0, 2.0, 1.0)])
    (folder / "config.yaml").write_text(config)
    with pytest.raises(ValueError, match=rf"config\.yaml{message}"):
        read_metrics(folder)


def test_aggregate__by_hand():
    moco = [result(10.0, 4.0, 1.0), result(12.0, 6.0, 1.0), result(14.0, 8.0, 4.0)]
    random = [result(9.0, 5.0, 1.0), result(9.0, 6.0, 3.0), result(12.0, 7.0, 5.0)]
    reference, other = aggregate(content_of({"moco": moco, "random": random}))
    assert (reference.init, reference.n_trials) == ("random", 3)
    assert (other.init, other.reference, other.n_trials) == ("moco", "random", 3)
    # means 10, 6, 3; squared deviations 6, 2, 8, divided by n - 1 = 2
    assert [reference.metrics[key].mean for key in moco[0]] == pytest.approx([10.0, 6.0, 3.0])
    assert [reference.metrics[key].deviation for key in moco[0]] == pytest.approx([3**0.5, 1.0, 2.0])
    assert [reference.metrics[key].gap for key in moco[0]] == [None] * 3
    assert [other.metrics[key].mean for key in moco[0]] == pytest.approx([12.0, 6.0, 2.0])
    assert [other.metrics[key].deviation for key in moco[0]] == pytest.approx([2.0, 2.0, 3**0.5])
    assert [other.metrics[key].gap.mean for key in moco[0]] == pytest.approx([2.0, 0.0, -1.0])
    # differences -1, 0, 1 of AP: deviation 1, and 4.303 is Student's t of two degrees
    gap = other.metrics["bbox/AP"].gap
    assert (gap.n, gap.deviation) == (3, pytest.approx(1.0))
    assert (gap.low, gap.high) == pytest.approx((-4.303 / 3**0.5, 4.303 / 3**0.5), abs=1e-3)


def test_aggregate__pairs_are_by_seed_and_what_failed_has_none():
    values = {"moco": [5.0, 6.0, None, 9.0], "random": [None, 4.0, 1.0, 5.0], "none": [None] * 4}
    content = content_of({init: [v and result(v, v, v) for v in of_init] for init, of_init in values.items()})
    content["trials"].reverse()  # their order is of no matter
    waiting = next(trial for trial in content["trials"] if (trial["init"], trial["seed"]) == ("none", 3))
    waiting["status"] = "waiting"
    random, moco, none = aggregate(content)
    assert [(row.n_trials, row.n_failed, row.n_left) for row in (random, moco, none)] == [
        (3, 1, 0),
        (3, 1, 0),
        (0, 3, 1),
    ]
    assert moco.metrics["bbox/AP"].mean == pytest.approx(20 / 3)  # of all that have finished
    assert moco.metrics["bbox/AP"].gap == paired_gap([9.0, 6.0], [5.0, 4.0])
    assert none.metrics == {}


def test_aggregate__one_pair_has_no_interval_and_none_no_gap():
    content = content_of({"random": [result(3.0, 2.0, 1.0), None], "moco": [result(4.0, 3.0, 2.0)] * 2})
    random, moco = aggregate(content)
    assert all(cell.deviation is None for cell in random.metrics.values())
    assert (moco.metrics["bbox/AP"].gap.mean, moco.metrics["bbox/AP"].gap.low) == (1.0, None)
    content["trials"] = [trial for trial in content["trials"] if (trial["init"], trial["seed"]) != ("moco", 0)]
    _, moco = aggregate(content)
    assert moco.n_trials == 1
    assert moco.metrics["bbox/AP"].gap is None


def test_aggregate__gaps_stay_within_detector_and_fraction():
    levels = {("FPN", 1.0): 8.0, ("FPN", 0.1): 4.0, ("C4", 1.0): 2.0}
    content = content_of({})
    content |= {"detectors": ["FPN", "C4"], "fractions": [1.0, 0.1], "inits": ["c", "a", "random"]}
    for (detector, fraction), level in levels.items():
        inits = {init: [result(value, value, value)] for init, value in (("c", 0.0), ("a", level), ("random", 1.0))}
        content["trials"] += content_of(inits, detector=detector, fraction=fraction)["trials"]
    rows = aggregate(content)
    assert [(row.detector, row.fraction, row.init) for row in rows] == [
        (*group, init) for group in levels for init in ("random", "c", "a")
    ]
    gaps = [row.metrics["bbox/AP"].gap.mean for row in rows if row.init == "a"]
    assert gaps == [level - 1 for level in levels.values()]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"moco": [result(3.0, 2.0, 1.0)]}, "reference 'random' is not among"),
        (
            {"random": [result(3.0, 2.0, 1.0), {"bbox/AP": 1.0}]},
            "random, 100 % of the labels, seed 1: expected the metrics",
        ),
        ({"random": [result(3.0, math.nan, 1.0)]}, "random, .* seed 0: bbox/AP is not a finite number"),
    ],
)
def test_aggregate__refuses(results, message):
    with pytest.raises(ValueError, match=message):
        aggregate(content_of(results))
