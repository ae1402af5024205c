"""How good the features of an encoder are: nearest neighbours, linear classifiers, accuracy of a classifier."""

from .classification import ClassificationEvaluator, open_validation
from .knn import KNNMonitor

__all__ = ["ClassificationEvaluator", "KNNMonitor", "open_validation"]
