from .build import EVALUATORS, build_evaluator
from .complete import CompleteEvaluator
from .voc import VOCEvaluator

__all__ = ["EVALUATORS", "CompleteEvaluator", "VOCEvaluator", "build_evaluator"]
