import logging
from pathlib import Path

import pytest
import torch
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from mocodet.detection.data import register_datasets
from mocodet.detection.evaluation import VOCEvaluator
from tests.detection.tiny import CLASSES, SIZE, boxes, empty_config, make_voc, voc_annotation, voc_object


def register(root: Path, count: int, **keys: object) -> str:
    entry = make_voc(root, count) | keys
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    return entry["NAME"]


def detections(count: int) -> list[Instances]:
    """The true boxes, shaken, some with the wrong class, and some boxes on nothing."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, *box in boxes(count):
        shaken = torch.tensor([box, box, box], dtype=torch.float) + 3 * torch.randn(3, 4, generator=generator)
        right = CLASSES.index(name)
        found.append(
            Instances(
                (SIZE, SIZE),
                pred_boxes=Boxes(shaken),
                scores=torch.rand(3, generator=generator),
                pred_classes=torch.tensor([right, right, 1 - right]),
            )
        )
    return found


def run(evaluator: PascalVOCDetectionEvaluator, instances: list[Instances]) -> dict[str, float]:
    evaluator.reset()
    for index, found in enumerate(instances):
        evaluator.process([{"image_id": f"train{index:03d}"}], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_evaluator__agrees_with_detectron2(tmp_path, year):
    name = register(tmp_path, 12, YEAR=year)
    ours, theirs = run(VOCEvaluator(name), detections(12)), run(PascalVOCDetectionEvaluator(name), detections(12))
    assert 0 < theirs["AP"] < theirs["AP50"] < 100
    assert {metric: ours[metric] for metric in theirs} == pytest.approx(theirs)
    assert ours["AP"] == pytest.approx((ours["AP-cat"] + ours["AP-dog"]) / 2)
    assert ours["AP50"] == pytest.approx((ours["AP50-cat"] + ours["AP50-dog"]) / 2)


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_evaluator__class_without_ground_truth_is_named_and_left_out(tmp_path, caplog, year):
    name = register(tmp_path, 12, CLASSES=[*CLASSES, "unicorn"], YEAR=year)
    with caplog.at_level(logging.WARNING):
        found = run(VOCEvaluator(name), detections(12))
    assert "so not part of the mean AP: unicorn" in caplog.text
    assert found["AP"] == pytest.approx((found["AP-cat"] + found["AP-dog"]) / 2)
    assert "AP-unicorn" not in found


def test_voc_evaluator__difficult_objects_are_no_ground_truth(tmp_path):
    name = register(tmp_path, 2)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(voc_annotation(voc_object("cat", (4, 8, 36, 40), difficult=1)))
    with pytest.raises(RuntimeError, match="no ground truth to evaluate on in its 2 images"):
        run(VOCEvaluator(name), detections(2))


def test_voc_evaluator__keeps_the_detections(tmp_path):
    name = register(tmp_path / "data", 2)
    instances = detections(2)
    run(VOCEvaluator(name, output_dir=str(tmp_path / "out")), instances)
    lines = [line.split() for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cat.txt", "dog.txt"}
    assert len(lines) == sum(map(len, instances)) == 6
    assert {line[0] for line in lines} == {"train000", "train001"}


def test_voc_evaluator__no_detection_is_zero(tmp_path):
    name = register(tmp_path, 2, YEAR=2012)
    nothing = [found[found.scores > 2] for found in detections(2)]
    assert set(run(VOCEvaluator(name), nothing).values()) == {0.0}
