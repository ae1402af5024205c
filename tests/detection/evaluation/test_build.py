import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from mocodet.detection.data import register_datasets
from mocodet.detection.evaluation.build import build_evaluator
from mocodet.detection.evaluation.kinds.coco import FasterCOCOEvaluator
from mocodet.detection.evaluation.kinds.voc import VOCEvaluator
from tests.detection.tiny import SIZE, boxes, empty_config, make_coco, make_voc


def test_build_evaluator__by_evaluator_type(tmp_path):
    voc, coco = make_voc(tmp_path / "voc"), make_coco(tmp_path / "coco")
    cfg = empty_config(MOCO__DATASETS=[voc, coco], OUTPUT_DIR=str(tmp_path))
    register_datasets(cfg)
    DatasetCatalog.get(coco["NAME"])
    assert type(build_evaluator(cfg, voc["NAME"]).evaluator) is VOCEvaluator
    assert type(build_evaluator(cfg, coco["NAME"]).evaluator) is FasterCOCOEvaluator


@pytest.mark.parametrize(("found", "expected"), [(True, 100.0), (False, 0.0)])
def test_build_evaluator__coco_evaluates_masks_even_without_predictions(tmp_path, found, expected):
    entry = make_coco(tmp_path)
    cfg = empty_config(MOCO__DATASETS=[entry], OUTPUT_DIR=str(tmp_path), MODEL__MASK_ON=True)
    register_datasets(cfg)
    evaluator = build_evaluator(cfg, entry["NAME"])
    for record, (_, x0, y0, x1, y1) in zip(DatasetCatalog.get(entry["NAME"]), boxes(4), strict=True):
        mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
        mask[:, y0:y1, x0:x1] = True
        instances = Instances(
            (SIZE, SIZE),
            pred_boxes=Boxes(torch.tensor([[x0, y0, x1, y1]], dtype=torch.float)),
            scores=torch.ones(1),
            pred_classes=torch.tensor([record["annotations"][0]["category_id"]]),
            pred_masks=mask,
        )
        evaluator.process([record], [{"instances": instances if found else instances[instances.scores > 2]}])
    results = evaluator.evaluate()
    assert [results[task]["AP"] for task in ("bbox", "segm")] == pytest.approx([expected, expected])
