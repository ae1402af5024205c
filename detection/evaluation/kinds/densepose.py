"""DensePose's metrics, by detectron2's DensePose project."""

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from ...densepose import EVALUATOR_TYPE, INSTALL, PROJECT, trainer
from . import EvaluationKind, register_kind


def build(cfg: CfgNode, dataset_name: str, tasks: object, output_dir: str | None) -> DatasetEvaluator:
    """Build the project's evaluators: box AP, and AP by geodesic point similarity (Guler et al., CVPR 2018)."""
    return trainer().build_evaluator(cfg, dataset_name, output_dir)


register_kind(EvaluationKind(EVALUATOR_TYPE, build=build, packages=(PROJECT,), install=INSTALL))
