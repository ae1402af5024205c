"""The evaluator of a data set follows from its metadata."""

from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from .complete import CompleteEvaluator
from .voc import VOCEvaluator


def _coco_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> COCOEvaluator:
    # Named here rather than inferred from the predictions: without any, masks would silently not be evaluated.
    tasks = ["bbox"]
    if cfg.MODEL.MASK_ON:
        tasks.append("segm")
    if cfg.MODEL.KEYPOINT_ON:
        tasks.append("keypoints")
    return COCOEvaluator(
        dataset_name,
        tasks=tuple(tasks),
        output_dir=output_dir,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )


def _voc_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> VOCEvaluator:
    return VOCEvaluator(dataset_name, output_dir=output_dir)


EVALUATORS: dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]] = {
    "coco": _coco_evaluator,
    "pascal_voc": _voc_evaluator,
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> CompleteEvaluator:
    """Build the evaluator that the metadata ``evaluator_type`` of the data set asks for.

    Predictions are left in ``<OUTPUT_DIR>/inference/<dataset_name>/``.

    Raises:
        ValueError: there is no evaluator of that type.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in EVALUATORS:
        raise ValueError(
            f"data set {dataset_name} asks for an evaluator of type {evaluator_type!r}; there are"
            f" {', '.join(sorted(EVALUATORS))}"
        )
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name)
    return CompleteEvaluator(EVALUATORS[evaluator_type](cfg, dataset_name, output_dir), dataset_name)
