from .build import EVALUATORS, build_evaluator, check_ground_truth
from .coco import FasterCOCOEvaluator
from .complete import CompleteEvaluator
from .semseg import MeanIoUEvaluator
from .voc import VOCEvaluator

__all__ = [
    "EVALUATORS",
    "CompleteEvaluator",
    "FasterCOCOEvaluator",
    "MeanIoUEvaluator",
    "VOCEvaluator",
    "build_evaluator",
    "check_ground_truth",
]
