import logging
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mocodet.detection.data import register_datasets
from mocodet.detection.evaluation.kinds.voc import VOCEvaluator, check_voc_ground_truth
from tests.detection.tiny import CLASSES, SIZE, boxes, empty_config, make_voc, new_name, voc_annotation, voc_object


def register(root: Path, count: int, **keys: object) -> str:
    entry = make_voc(root, count) | keys
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    return entry["NAME"]


def instances(found: list[tuple[int, float, list[float]]]) -> Instances:
    """Make the detections of one image from (class, score, box) each."""
    classes, scores, corners = ([row[i] for row in found] for i in range(3))
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(torch.tensor(corners, dtype=torch.float).reshape(-1, 4)),
        scores=torch.tensor(scores, dtype=torch.float),
        pred_classes=torch.tensor(classes, dtype=torch.long),
    )


def detections(count: int) -> list[Instances]:
    """The true boxes with noise, some with the wrong class, and some boxes on nothing."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, *box in boxes(count):
        shaken = torch.tensor([box, box, box], dtype=torch.float) + 3 * torch.randn(3, 4, generator=generator)
        right = CLASSES.index(name)
        scores = torch.rand(3, generator=generator).tolist()
        found.append(instances(list(zip([right, right, 1 - right], scores, shaken.tolist(), strict=True))))
    return found


def run(evaluator: DatasetEvaluator, found: list[Instances], prefix: str = "train") -> dict[str, float]:
    evaluator.reset()
    for index, of_image in enumerate(found):
        evaluator.process([{"image_id": f"{prefix}{index:03d}"}], [{"instances": of_image}])
    return evaluator.evaluate()["bbox"]


def only(results: dict[str, float], metrics: dict[str, float]) -> dict[str, float]:
    return {metric: results[metric] for metric in metrics}


# Corners on a coarse grid and few scores, so that equal scores, equal boxes and IoUs at a threshold are common; scores
# and corners also between the decimals that the evaluation keeps.
corner = st.integers(1, 12).map(lambda i: 4 * i) | st.floats(1, 60, width=32)
score = st.sampled_from([0.1, 0.5, 0.9]) | st.floats(0, 1, width=32)


@st.composite
def box(draw: st.DrawFn) -> list[float]:
    (x0, x1), (y0, y1) = (sorted((draw(corner), draw(corner))) for _ in range(2))
    return [x0, y0, x1, y1]


@st.composite
def splits(draw: st.DrawFn) -> list[tuple[list, list]]:
    """Images of (objects, detections): objects are (class, difficult, box); some detections lie on objects."""
    images = []
    for _ in range(draw(st.integers(1, 5))):
        solid = box().map(lambda sides: [*map(int, sides)]).filter(lambda s: s[0] < s[2] and s[1] < s[3])
        objects = draw(st.lists(st.tuples(st.integers(0, 2), st.booleans(), solid), max_size=4))
        hits = [(kind, place) for kind, _, place in objects]
        likely = st.sampled_from(hits) if hits else st.tuples(st.integers(0, 2), box())
        anywhere = st.tuples(st.integers(0, 2), box())
        found = draw(st.lists(st.tuples(likely | anywhere, score), max_size=8))
        images.append((objects, [(kind, value, place) for (kind, place), value in found]))
    return images


TALL, HALF = [4, 4, 14, 24], [4.0, 4.0, 14.0, 14.0]  # HALF is half of TALL: their IoU is at the first threshold


@settings(deadline=None, max_examples=100)
@given(images=splits(), year=st.sampled_from([2007, 2012]))
@example(images=[([(0, False, TALL)], [(0, 0.9, HALF)])], year=2007)
# Above the threshold until its corner is rounded.
@example(images=[([(0, False, TALL)], [(0, 0.9, [4.0, 4.0, 14.0, 14.04])])], year=2012)
# The wrong detection comes first until the scores are rounded.
@example(images=[([(0, False, TALL)], [(0, 0.5001, TALL), (0, 0.5004, [30.0, 30.0, 40.0, 40.0])])], year=2012)
# Of two objects with the same overlap the first is taken; here it is difficult.
@example(images=[([(0, True, TALL), (0, False, TALL)], [(0, 0.9, TALL)])], year=2007)
def test_voc_evaluator__equals_detectron2_exactly(images, year):
    kinds = ("ant", "bee", "cow")
    with tempfile.TemporaryDirectory() as root:
        for folder in ("Annotations", "ImageSets/Main"):
            Path(root, folder).mkdir(parents=True)
        Path(root, "ImageSets/Main/test.txt").write_text("".join(f"test{i:03d}\n" for i in range(len(images))))
        for index, (objects, _) in enumerate(images):
            nodes = [voc_object(kinds[kind], place, int(hard)) for kind, hard, place in objects]
            Path(root, "Annotations", f"test{index:03d}.xml").write_text(voc_annotation(*nodes))
        name = new_name()
        MetadataCatalog.get(name).set(
            dirname=root, split="test", year=year, thing_classes=list(kinds), evaluator_type="pascal_voc"
        )
        found = [instances(of_image) for _, of_image in images]
        with np.errstate(invalid="ignore"):
            theirs = run(PascalVOCDetectionEvaluator(name), found, "test")
        if all(hard for objects, _ in images for _, hard, _ in objects):
            with pytest.raises(RuntimeError, match="has no ground truth in its"):
                run(VOCEvaluator(name), found, "test")
            return
        evaluator = VOCEvaluator(name)
        ours = run(evaluator, found, "test")
        np.testing.assert_array_equal(list(only(ours, theirs).values()), list(theirs.values()))
        check_matches(evaluator, ours, year)


def check_matches(evaluator: VOCEvaluator, results: dict[str, float], year: int) -> None:
    """The saved matches give the results; if the 2012 mean is undefined, those of the classes with objects."""
    matches = evaluator.matches()["bbox"]
    aps = matches.average_precisions()[:, :, 0] * 100
    for name, values in zip(matches.classes, aps, strict=True):
        expected = [results[f"AP-{name}"], results[f"AP50-{name}"]]
        if np.isnan(values).all():  # nothing to find
            np.testing.assert_array_equal(np.nan_to_num(expected), [0, 0])
        else:
            np.testing.assert_allclose([values.mean(), values[0]], expected, rtol=0, atol=1e-9)
    if year == 2007 or not np.isnan(aps).any():
        means = matches.metrics()
        expected = [results[metric] for metric in means]
        np.testing.assert_allclose(np.ravel(list(means.values())), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("missed_after", range(1, 10))
def test_voc_evaluator__equals_detectron2_at_every_tenth_of_recall(tmp_path, missed_after, year):
    """A wrong detection after the n-th of ten objects: is the eleven-point metric's point at n / 10 before it?"""
    name = register(tmp_path, 20, YEAR=year)  # every second object is a cat
    found = []
    for index, (kind, *box) in enumerate(boxes(20)):
        rank = index // 2 + 1
        hit = (CLASSES.index(kind), 1 - rank / 20, box)
        miss = (CLASSES.index(kind), 1 - rank / 20 - 1 / 40, [50, 50, 60, 60])
        found.append(instances([hit, miss] if rank == missed_after else [hit]))
    theirs = run(PascalVOCDetectionEvaluator(name), found)
    np.testing.assert_array_equal(list(only(run(VOCEvaluator(name), found), theirs).values()), list(theirs.values()))


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("count", [10, 20])
def test_voc_evaluator__equals_detectron2_in_the_order_of_equal_scores(tmp_path, count, year):
    """Its sorting is not stable, which shows with many detections."""
    name = register(tmp_path, 2 * count, YEAR=year)  # every second object is a cat
    rng, found = np.random.default_rng(count), []
    for kind, *box in boxes(2 * count):
        places = [box, *(box + rng.normal(0, 4, (7, 4))).tolist()]
        found.append(instances([(CLASSES.index(kind), rng.choice([0.1, 0.5, 0.9]), place) for place in places]))
    theirs = run(PascalVOCDetectionEvaluator(name), found)
    assert 0 < theirs["AP"] < 100
    evaluator = VOCEvaluator(name)
    ours = run(evaluator, found)
    np.testing.assert_array_equal(list(only(ours, theirs).values()), list(theirs.values()))
    check_matches(evaluator, ours, year)


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_evaluator__per_class(tmp_path, caplog, year):
    name = register(tmp_path, 12, YEAR=year)
    with caplog.at_level(logging.INFO):
        ours = run(VOCEvaluator(name), detections(12))
    theirs = run(PascalVOCDetectionEvaluator(name), detections(12))
    assert 0 < theirs["AP"] < theirs["AP50"] < 100
    assert only(ours, theirs) == theirs
    assert ours["AP"] == pytest.approx((ours["AP-cat"] + ours["AP-dog"]) / 2)
    assert ours["AP50"] == pytest.approx((ours["AP50-cat"] + ours["AP50-dog"]) / 2)
    assert f"| dog     |         6 | {ours['AP-dog']:.2f} |  {ours['AP50-dog']:.2f} |" in caplog.text


@pytest.mark.parametrize(("year", "value"), [(2007, 0.0), (2012, math.nan)])
def test_voc_evaluator__class_without_ground_truth_is_detectron2s_and_said(tmp_path, caplog, year, value):
    name = register(tmp_path, 12, CLASSES=[*CLASSES, "unicorn"], YEAR=year)
    found = detections(12)
    found[0] = Instances.cat([found[0], instances([(2, 0.9, [1, 1, 9, 9])])])
    with caplog.at_level(logging.WARNING):
        ours = run(VOCEvaluator(name), found)
    with np.errstate(invalid="ignore"):
        theirs = run(PascalVOCDetectionEvaluator(name), found)
    np.testing.assert_array_equal(list(only(ours, theirs).values()), list(theirs.values()))
    np.testing.assert_array_equal([ours["AP-unicorn"], ours["AP"]], [value, 0 * value or theirs["AP"]])
    others = (ours["AP-cat"] + ours["AP-dog"]) / 2
    assert f"No ground truth in {name} for unicorn" in caplog.text
    assert f"The means over the other 2 classes are AP {others:.2f}, AP50" in caplog.text


@pytest.mark.parametrize("year", [2007, 2012])
def test_check_voc_ground_truth__class_without(tmp_path, caplog, year):
    name = register(tmp_path, 4, CLASSES=[*CLASSES, "unicorn"], YEAR=year)
    with caplog.at_level(logging.WARNING):
        if year == 2012:
            with pytest.raises(ValueError, match=r"no ground truth for unicorn .* would not be a number; remove"):
                check_voc_ground_truth(empty_config(), name)
        else:
            check_voc_ground_truth(empty_config(), name)
            assert f"No ground truth in {name} for unicorn" in caplog.text


def test_check_voc_ground_truth__complete(tmp_path, caplog):
    name = register(tmp_path, 4, YEAR=2012)
    check_voc_ground_truth(empty_config(), name)
    assert not caplog.text


def test_voc_evaluator__only_difficult_objects(tmp_path):
    name = register(tmp_path, 2)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(voc_annotation(voc_object("cat", (4, 8, 36, 40), difficult=1)))
    with pytest.raises(RuntimeError, match="no ground truth in its 2 images"):
        run(VOCEvaluator(name), detections(2))
    with pytest.raises(ValueError, match="contain no objects of cat, dog that are not marked difficult"):
        check_voc_ground_truth(empty_config(), name)


def test_voc_evaluator__several_processes(tmp_path, monkeypatch):
    name = register(tmp_path, 12)
    found, parts = detections(12), []
    for own in (slice(0, 5), slice(5, 12)):
        evaluator = VOCEvaluator(name)
        for index in range(12)[own]:
            evaluator.process([{"image_id": f"train{index:03d}"}], [{"instances": found[index]}])
        parts.append(evaluator._tables)
    with monkeypatch.context() as patch:
        patch.setattr("detectron2.utils.comm.gather", lambda data, dst: parts)
        together = evaluator.evaluate()["bbox"]
    assert together == run(VOCEvaluator(name), found)


def test_voc_evaluator__the_files_it_leaves_give_its_results(tmp_path):
    name = register(tmp_path / "data", 12)
    evaluator = VOCEvaluator(name, output_dir=str(tmp_path / "out"))
    results = run(evaluator, detections(12))
    theirs = PascalVOCDetectionEvaluator(name)
    run(theirs, detections(12))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cat.txt", "dog.txt"}
    for index, kind in enumerate(CLASSES):
        assert (tmp_path / "out" / f"{kind}.txt").read_text().splitlines() == theirs._predictions[index]
    saved, count = VOCEvaluator(name).evaluate_saved(tmp_path / "out")
    assert (saved, count) == ({"bbox": results}, 36)


def test_voc_evaluator__class_names_that_are_no_file_names(tmp_path):
    name = register(tmp_path / "data", 2, CLASSES=[*CLASSES, "T-shirt/top {}"])
    run(VOCEvaluator(name, output_dir=str(tmp_path / "out")), detections(2))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cat.txt", "dog.txt", "T-shirt%2Ftop %7B%7D.txt"}
    assert VOCEvaluator(name).evaluate_saved(tmp_path / "out")[1] == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train000 0.5 1 2 3",
            "cat.txt, line 2: expected  image score xmin ymin xmax ymax, found 'train000 0.5 1 2 3'",
        ),
        ("train000 high 1 2 3 4", "line 2: expected  image score"),
        ("train000 nan 1 2 3 4", "line 2: the score or the box is not finite, or the box has a negative size"),
        ("train000 0.5 9 2 3 4", "not finite, or the box has a negative size"),
        ("else 0.5 1 2 3 4", "line 2: the image 'else' is not in the split of 2 images"),
    ],
)
def test_voc_evaluator__malformed_files(tmp_path, line, message):
    name = register(tmp_path / "data", 2)
    (tmp_path / "cat.txt").write_text(f"train000 0.5 1 2 3 4\n{line}\n")
    with pytest.raises(FileNotFoundError, match=r"lacks dog.txt; found cat.txt. Each class requires a file"):
        VOCEvaluator(name).evaluate_saved(tmp_path)
    (tmp_path / "dog.txt").touch()
    with pytest.raises(ValueError, match=message):
        VOCEvaluator(name).evaluate_saved(tmp_path)


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_evaluator__no_detection_is_zero(tmp_path, year):
    name = register(tmp_path, 2, YEAR=year)
    assert set(run(VOCEvaluator(name), [instances([]), instances([])]).values()) == {0.0}


def test_voc_evaluator__unknown_image_or_class(tmp_path):
    name = register(tmp_path, 2)
    with pytest.raises(ValueError, match="image test000 is not in the split train"):
        run(VOCEvaluator(name), detections(1), prefix="test")
    with pytest.raises(ValueError, match=r"predicts class 7, but .* has only 2 classes"):
        run(VOCEvaluator(name), [instances([(7, 0.5, [1, 1, 9, 9])])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>", "train000.xml: is not XML .no element found"),
        (
            "<a><object><name>cat</name></object></a>",
            "train000.xml: has the root element <a> instead of VOC's <annotation>",
        ),
    ],
)
def test_voc_evaluator__malformed_annotation(tmp_path, content, message):
    name = register(tmp_path, 2)
    (tmp_path / "Annotations/train000.xml").write_text(content)
    with pytest.raises(ValueError, match=message):
        run(VOCEvaluator(name), detections(2))
