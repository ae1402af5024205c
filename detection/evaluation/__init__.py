from .build import build_evaluator
from .complete import CompleteEvaluator
from .kinds import EvaluationKind, kind_of, register_kind
from .kinds.coco import FasterCOCOEvaluator
from .kinds.semseg import MeanIoUEvaluator
from .kinds.voc import VOCEvaluator
from .things import Thing

__all__ = [
    "CompleteEvaluator",
    "EvaluationKind",
    "FasterCOCOEvaluator",
    "MeanIoUEvaluator",
    "Thing",
    "VOCEvaluator",
    "build_evaluator",
    "kind_of",
    "register_kind",
]
