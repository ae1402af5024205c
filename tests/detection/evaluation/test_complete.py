import json
import logging
import math

import pytest
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator

from mocodet.detection.evaluation.complete import CompleteEvaluator, write_results
from tests.detection.tiny import new_name


class Fixed(DatasetEvaluator):
    def __init__(self, results: dict | None):
        self.results = results

    def evaluate(self) -> dict | None:
        return self.results


def evaluate(seen: list[int], results: dict | None, predictions: int = 1, images: int = 3) -> dict:
    name = new_name()
    DatasetCatalog.register(name, lambda: [{"image_id": i} for i in range(images)])
    evaluator = CompleteEvaluator(Fixed(results), name)
    for image in seen:
        evaluator.process([{"image_id": image}], [{"instances": range(predictions)}])
    return evaluator.evaluate()


def evaluate_semantic(seen: list[str], miou: float, images: int = 2) -> dict:
    """Images without ids and outputs without instances, as in semantic segmentation."""
    name, results = new_name(), {"sem_seg": {"mIoU": miou, "IoU-cow": math.nan}}
    DatasetCatalog.register(name, lambda: [{"file_name": f"{i}.png"} for i in range(images)])
    evaluator = CompleteEvaluator(Fixed(results), name)
    for file in seen:
        evaluator.process([{"file_name": file}], [{"sem_seg": "a tensor"}])
    return evaluator.evaluate()


def test_complete_evaluator__other_outputs_count_as_predictions():
    """For example, those of a ProposalNetwork."""
    name, results = new_name(), {"box_proposals": {"AR@100": 100.0}}
    DatasetCatalog.register(name, lambda: [{"image_id": 0}])
    evaluator = CompleteEvaluator(Fixed(results), name)
    evaluator.process([{"image_id": 0}], [{"proposals": "some"}])
    assert evaluator.evaluate() == results


GOOD = {"bbox": {"AP": 1.0, "AP50": 2.0, "AP75": 0.0}}


def test_complete_evaluator__every_image_once():
    assert evaluate([2, 0, 1], GOOD) == GOOD


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ([], "of its 3 images, 3 were not evaluated and 0"),
        ([0, 2], "1 were not evaluated and 0"),
        ([0, 1, 2, 0], "0 were not evaluated and 1 were evaluated more than once"),
    ],
)
def test_complete_evaluator__images_missing_or_repeated(seen, message):
    with pytest.raises(RuntimeError, match=message):
        evaluate(seen, GOOD)


def test_complete_evaluator__no_image_at_all():
    with pytest.raises(RuntimeError, match="of its 0 images"):
        evaluate([], GOOD, images=0)


def test_complete_evaluator__no_prediction_is_zero_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        found = evaluate([0, 1, 2], {"bbox": {"AP": math.nan, "APs": math.nan}}, predictions=0)
    assert found == {"bbox": {"AP": 0.0, "APs": 0.0}}
    assert "predicted no objects on" in caplog.text


def test_complete_evaluator__undefined_headline():
    with pytest.raises(RuntimeError, match=r"segm AP75 on .* is not a number"):
        evaluate([0, 1, 2], GOOD | {"segm": {"AP": 1.0, "AP75": math.nan}})


def test_complete_evaluator__undefined_detail_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        found = evaluate([0, 1, 2], {"bbox": {"AP": 1.0, "APl": math.nan, "AP-cow": math.nan}})
    assert math.isnan(found["bbox"]["APl"])
    assert "for some metrics of bbox, which are nan: APl, AP-cow" in caplog.text


@pytest.mark.parametrize("results", [None, {}])
def test_complete_evaluator__no_result(results):
    with pytest.raises(RuntimeError, match="returned no results"):
        evaluate([0, 1, 2], results)


def test_complete_evaluator__image_without_id_is_known_by_its_file(caplog):
    with caplog.at_level(logging.WARNING):
        found = evaluate_semantic(["1.png", "0.png"], miou=40.0)
    assert found["sem_seg"]["mIoU"] == 40.0
    assert "for some metrics of sem_seg, which are nan: IoU-cow" in caplog.text
    assert "predicted no object" not in caplog.text
    with pytest.raises(RuntimeError, match="of its 2 images, 1 were not evaluated and 1 were evaluated more than once"):
        evaluate_semantic(["1.png", "1.png"], miou=40.0)


def test_complete_evaluator__undefined_miou():
    with pytest.raises(RuntimeError, match=r"sem_seg mIoU on .* is not a number"):
        evaluate_semantic(["0.png", "1.png"], miou=math.nan)


def test_complete_evaluator__image_id_goes_before_the_file():
    name = new_name()
    DatasetCatalog.register(name, lambda: [{"image_id": i, "file_name": "video.mp4"} for i in range(2)])
    evaluator = CompleteEvaluator(Fixed(GOOD), name)
    evaluator.process([{"image_id": i, "file_name": "elsewhere.mp4"} for i in (1, 0)], [{"instances": [0]}] * 2)
    assert evaluator.evaluate() == GOOD


def test_write_results__undefined_becomes_null(tmp_path):
    file = tmp_path / "new" / "results.json"
    write_results({"mine": {"bbox": {"AP": 1.5, "APl": float("nan")}}}, file)
    assert file.read_text().count("null") == 1
    assert json.loads(file.read_text()) == {"mine": {"bbox": {"AP": 1.5, "APl": None}}}
