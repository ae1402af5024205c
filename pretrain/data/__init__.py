"""Unlabelled images: where they come from, in what order, and the two views made of each."""

from .folders import ImageFolder
from .sampler import EpochSampler
from .views import TwoViews, build_view

__all__ = ["EpochSampler", "ImageFolder", "TwoViews", "build_view"]
