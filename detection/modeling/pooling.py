"""Region pooling that preserves the precision of box coordinates under autocast."""

from typing import Any

from detectron2.modeling.poolers import ROIPooler
from torch import nn


def pool_in_float32(model: nn.Module) -> nn.Module:
    """Make every ``ROIPooler`` in ``model`` pool from float32 copies of its features, and return the model.

    detectron2's ROIAlign casts the boxes to the data type of the features. bfloat16 has 8 bits of precision, so under
    autocast a box at 1027 pixels would be pooled at 1024 in training, but at 1027 in evaluation.
    """
    for module in model.modules():
        if isinstance(module, ROIPooler):
            module.register_forward_pre_hook(_features_to_float32)
    return model


def _features_to_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    features, *rest = inputs  # list of N x C x H x W, and the boxes of each image
    return [level.float() for level in features], *rest
