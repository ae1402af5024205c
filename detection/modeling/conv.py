"""The convolution of which the paper's new layers consist."""

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm


def conv3x3_norm_relu(in_channels: int, out_channels: int, norm: str, dilation: int = 1) -> Conv2d:
    """Make a 3x3 convolution with norm and ReLU, N x C x H x W to N x K x H x W.

    Args:
        in_channels: C.
        out_channels: K.
        norm: a name for ``detectron2.layers.get_norm``; without one the convolution has a bias.
        dilation: distance between the input rows, and columns, that an output sees.
    """
    norm_layer = get_norm(norm, out_channels)
    size = {"kernel_size": 3, "padding": dilation, "dilation": dilation}
    conv = Conv2d(in_channels, out_channels, **size, bias=norm_layer is None, norm=norm_layer, activation=F.relu)
    weight_init.c2_msra_fill(conv)
    return conv
