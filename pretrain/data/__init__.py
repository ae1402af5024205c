"""Images: where they come from, in what order, and the views made of each."""

from .folders import ImageFolder
from .labelled import open_labelled
from .sampler import EpochSampler, GlobalBatches
from .shards import ShardImages, ShardSampler
from .views import Views, build_view

__all__ = [
    "EpochSampler",
    "GlobalBatches",
    "ImageFolder",
    "ShardImages",
    "ShardSampler",
    "Views",
    "build_view",
    "open_labelled",
]
