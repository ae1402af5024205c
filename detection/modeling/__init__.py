"""The networks that the paper adds to detectron2: a norm after res5, dilated C5, an FCN; and norms for any device."""

from .dilated_c5 import DilatedC5, build_resnet_dilated_c5_backbone
from .fcn import FCNHead
from .norm import CPUSyncBatchNorm, adapt_norms_to_device
from .pooling import pool_in_float32
from .roi_heads import Res5ROIHeadsExtraNorm

__all__ = [
    "CPUSyncBatchNorm",
    "DilatedC5",
    "FCNHead",
    "Res5ROIHeadsExtraNorm",
    "adapt_norms_to_device",
    "build_resnet_dilated_c5_backbone",
    "pool_in_float32",
]
