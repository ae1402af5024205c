"""The dilated-C5 backbone of the MoCo paper (Appendix)."""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.resnet import ResNet

from .basic import DEPTHS, build_dilated_basic_resnet
from .conv import conv3x3_norm_relu


class DilatedC5(Backbone):
    """A ResNet and a 3x3 convolution with norm and ReLU, which reduces the channels of res5 and outputs ``c5``.

    The paper's appendix does not specify whether a ReLU follows the convolution and its norm. This implementation adds
    one, as after every other convolution with a norm in the network, so the RPN and the box head receive non-negative
    features, as they would from res5 itself.

    Args:
        bottom_up: the ResNet, whose outputs include ``res5``.
        out_channels: number of channels of ``c5``.
        norm: the norm after the convolution: a name for ``detectron2.layers.get_norm``.
    """

    def __init__(self, bottom_up: ResNet, out_channels: int, norm: str):
        super().__init__()
        shape = bottom_up.output_shape()["res5"]
        self.bottom_up = bottom_up
        self.conv = conv3x3_norm_relu(shape.channels, out_channels, norm)
        self._out_features = ["c5"]
        self._out_feature_channels = {"c5": out_channels}
        self._out_feature_strides = {"c5": shape.stride}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N x 3 x H x W) to ``{"c5": N x C x H/16 x W/16}`` (stride 16 if res5 is dilated)."""
        return {"c5": self.conv(self.bottom_up(x)["res5"])}


@BACKBONE_REGISTRY.register()
def build_resnet_dilated_c5_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DilatedC5:
    """Build the backbone from ``MODEL.RESNETS`` (``RES5_DILATION: 2``: stride 1 in res5) and ``MODEL.DILATED_C5``.

    Raises:
        ValueError: ``MODEL.RESNETS.OUT_FEATURES`` does not contain ``res5``.
    """
    if "res5" not in cfg.MODEL.RESNETS.OUT_FEATURES:
        raise ValueError(
            "build_resnet_dilated_c5_backbone requires res5: MODEL.RESNETS.OUT_FEATURES must be ['res5'], found"
            f" {cfg.MODEL.RESNETS.OUT_FEATURES}"
        )
    basic = cfg.MODEL.RESNETS.DEPTH in DEPTHS and cfg.MODEL.RESNETS.RES5_DILATION == 2
    bottom_up = (build_dilated_basic_resnet if basic else build_resnet_backbone)(cfg, input_shape)
    return DilatedC5(bottom_up, cfg.MODEL.DILATED_C5.OUT_CHANNELS, cfg.MODEL.RESNETS.NORM)
