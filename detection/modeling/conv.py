"""The convolution that is used in the paper's new layers."""

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm


def conv3x3_norm_relu(in_channels: int, out_channels: int, norm: str, dilation: int = 1) -> Conv2d:
    """Create a 3x3 convolution with norm and ReLU, which maps N x C x H x W to N x K x H x W.

    Args:
        in_channels: number of input channels, C.
        out_channels: number of output channels, K.
        norm: a name for ``detectron2.layers.get_norm``; if empty, the convolution has a bias instead.
        dilation: spacing of the input rows and columns that contribute to an output.
    """
    norm_layer = get_norm(norm, out_channels)
    size = {"kernel_size": 3, "padding": dilation, "dilation": dilation}
    conv = Conv2d(in_channels, out_channels, **size, bias=norm_layer is None, norm=norm_layer, activation=F.relu)
    weight_init.c2_msra_fill(conv)
    return conv
