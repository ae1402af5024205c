"""ResNet-18 and -34 where detectron2 supports only bottlenecks: in C4's region head, and with a dilated res5."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from torch import nn

DEPTHS = (18, 34)  # ResNets whose blocks consist of two 3x3 convolutions


def build_basic_res5(cfg: CfgNode) -> tuple[nn.Sequential, int]:
    """Return the last stage of a ResNet-18 or -34, R x 256 x H x W -> R x 512 x H/2 x W/2, and its output channels."""
    blocks = ResNet.make_default_stages(cfg.MODEL.RESNETS.DEPTH, norm=cfg.MODEL.RESNETS.NORM)[-1]
    return nn.Sequential(*blocks), blocks[-1].out_channels


def build_dilated_basic_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet-18 or -34 whose res5 has stride 1 and dilation 2 in every 3x3 convolution, as in a ResNet-50.

    The parameters are those of the ResNet without dilation, so the same weights can be loaded.
    """
    resnets = cfg.MODEL.RESNETS
    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, norm=resnets.NORM)
    stages = ResNet.make_default_stages(resnets.DEPTH, norm=resnets.NORM)
    for block in stages[-1]:
        _dilate(block)
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _dilate(block: BasicBlock) -> None:
    block.stride = 1
    for conv in (block.conv1, block.conv2):
        conv.stride, conv.dilation, conv.padding = (1, 1), (2, 2), (2, 2)
    if block.shortcut is not None:
        block.shortcut.stride = (1, 1)
