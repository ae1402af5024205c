import logging
import math

import pytest
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator

from mocodet.detection.evaluation import CompleteEvaluator
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


GOOD = {"bbox": {"AP": 1.0, "AP50": 2.0, "AP75": 0.0}}


def test_complete_evaluator__every_image_once():
    assert evaluate([2, 0, 1], GOOD) == GOOD


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ([], "of its 3 images, 3 were not evaluated and 0"),
        ([0, 2], "1 were not evaluated and 0"),
        ([0, 1, 2, 0], "0 were not evaluated and 1 evaluated more than once"),
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
    assert "predicted no object at all" in caplog.text


def test_complete_evaluator__undefined_headline():
    with pytest.raises(RuntimeError, match=r"segm AP75 on .* is not a number"):
        evaluate([0, 1, 2], GOOD | {"segm": {"AP": 1.0, "AP75": math.nan}})


def test_complete_evaluator__undefined_detail_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        found = evaluate([0, 1, 2], {"bbox": {"AP": 1.0, "APl": math.nan, "AP-cow": math.nan}})
    assert math.isnan(found["bbox"]["APl"])
    assert "so nan, for bbox: APl, AP-cow" in caplog.text


@pytest.mark.parametrize("results", [None, {}])
def test_complete_evaluator__no_result(results):
    with pytest.raises(RuntimeError, match="gave no result"):
        evaluate([0, 1, 2], results)
