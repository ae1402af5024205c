"""The evaluator of a data set follows from its metadata."""

from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.file_io import PathManager

from ..densepose import densepose_evaluator
from .cityscapes import CityscapesInstanceEvaluator
from .coco import FasterCOCOEvaluator
from .coco_ground_truth import check_coco_ground_truth
from .complete import CompleteEvaluator
from .lvis import LVISEvaluator
from .semseg import MeanIoUEvaluator
from .voc import VOCEvaluator
from .voc_ground_truth import check_voc_ground_truth


def coco_tasks(cfg: CfgNode) -> tuple[str, ...]:
    """Return which of COCO's tasks the model of a config predicts for."""
    # Named here rather than inferred from the predictions: without any, masks would silently not be evaluated.
    tasks = ["bbox"]
    if cfg.MODEL.MASK_ON:
        tasks.append("segm")
    if cfg.MODEL.KEYPOINT_ON:
        tasks.append("keypoints")
    return tuple(tasks)


def _coco_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> FasterCOCOEvaluator:
    return FasterCOCOEvaluator(
        dataset_name,
        tasks=coco_tasks(cfg),
        output_dir=output_dir,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )


def _check_coco(cfg: CfgNode, dataset_name: str) -> None:
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file:  # detectron2 makes one for a data set that has none
        json_file = PathManager.get_local_path(json_file)
        check_coco_ground_truth(json_file, coco_tasks(cfg), cfg.TEST.KEYPOINT_OKS_SIGMAS)


def _check_voc(cfg: CfgNode, dataset_name: str) -> None:
    check_voc_ground_truth(dataset_name)


def _voc_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> VOCEvaluator:
    return VOCEvaluator(dataset_name, output_dir=output_dir)


def _mean_iou_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> MeanIoUEvaluator:
    return MeanIoUEvaluator(dataset_name, output_dir=output_dir)


def _lvis_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> LVISEvaluator:
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    return LVISEvaluator(dataset_name, tasks, output_dir)


def _cityscapes_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> CityscapesInstanceEvaluator:
    return CityscapesInstanceEvaluator(dataset_name, output_dir)


EVALUATORS: dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]] = {
    "coco": _coco_evaluator,
    "pascal_voc": _voc_evaluator,
    "lvis": _lvis_evaluator,
    "cityscapes_instance": _cityscapes_evaluator,
    "densepose": densepose_evaluator,
    "sem_seg": _mean_iou_evaluator,
    "cityscapes_sem_seg": _mean_iou_evaluator,  # its 19 classes by training index; IoU as Cityscapes' script has it
}

# By the same types: what refuses ground truth of which no metric could be computed.
GROUND_TRUTH_CHECKS: dict[str, Callable[[CfgNode, str], None]] = {
    "coco": _check_coco,
    "pascal_voc": _check_voc,
}


def check_ground_truth(cfg: CfgNode, dataset_name: str) -> None:
    """Refuse a data set that could not be evaluated, before training rather than after; reads its annotations.

    Raises:
        FileNotFoundError: annotations are missing.
        ValueError: there is no evaluator of the data set's type, annotations are malformed, or there is no ground truth
            of what is to be evaluated.
    """
    evaluator_type = _evaluator_type(dataset_name)
    if evaluator_type in GROUND_TRUTH_CHECKS:
        GROUND_TRUTH_CHECKS[evaluator_type](cfg, dataset_name)


def build_evaluator(cfg: CfgNode, dataset_name: str) -> CompleteEvaluator:
    """Build the evaluator that the metadata ``evaluator_type`` of the data set asks for.

    Predictions are left in ``<OUTPUT_DIR>/inference/<dataset_name>/``.

    Raises:
        ValueError: there is no evaluator of that type.
    """
    evaluator_type = _evaluator_type(dataset_name)
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name)
    return CompleteEvaluator(EVALUATORS[evaluator_type](cfg, dataset_name, output_dir), dataset_name)


def predictions_folder(path: str | Path, dataset_name: str) -> Path:
    """Return where the predictions on a data set are: in ``path``, or deeper if that is a run's ``OUTPUT_DIR``.

    Raises:
        FileNotFoundError: it is the folder of a run that has predictions on other data sets only.
    """
    inference = Path(path, "inference")
    if not inference.is_dir():
        return Path(path)
    inside = inference / dataset_name
    if not inside.is_dir():
        found = ", ".join(sorted(folder.name for folder in inference.iterdir())) or "no data set"
        raise FileNotFoundError(
            f"the run in {path} has predictions on {found}, none on {dataset_name}; if they are on the same images,"
            f" name the folder, such as {inference / '<data set>'}"
        )
    return inside


def _evaluator_type(dataset_name: str) -> str:
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in EVALUATORS:
        raise ValueError(
            f"data set {dataset_name} asks for an evaluator of type {evaluator_type!r}; there are"
            f" {', '.join(sorted(EVALUATORS))}"
        )
    return evaluator_type
