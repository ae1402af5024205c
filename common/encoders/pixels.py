"""The image format that an encoder expects: the number of channels and the normalisation of pixels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Mean and standard deviation of ImageNet's pixels, from 0 to 255, as used by torchvision's models and MoCo.
RGB_MEAN, RGB_STD = (123.675, 116.280, 103.530), (58.395, 57.120, 57.375)

# Weights of red, green and blue in greyscale, as in Pillow (ITU-R BT.601).
GREY_SHARES = (0.299, 0.587, 0.114)

# The same for greyscale images. The deviation is the weighted mean over the channels, which differ little.
GREY_MEAN, GREY_STD = (
    (round(sum(share * value for share, value in zip(GREY_SHARES, values, strict=True)), 3),)
    for values in (RGB_MEAN, RGB_STD)
)

FORMATS = {1: "L", 3: "RGB"}  # number of channels -> INPUT.FORMAT


def input_channels(tensors: Mapping[str, Any]) -> int:
    """Return a ResNet's number of image channels, from its first convolution; 3 if that is missing or malformed.

    Raises:
        ValueError: the number is neither one nor three.
    """
    weight = tensors.get("conv1.weight")
    if not isinstance(weight, Tensor) or weight.ndim != 4:
        return 3
    if (channels := weight.shape[1]) not in FORMATS:
        raise ValueError(
            f"the encoder expects images with {channels} channels (conv1.weight has shape {tuple(weight.shape)}), but"
            " mocodet reads images as greyscale or RGB, with one or three channels; in a copy of the checkpoint, keep"
            " only the channels of conv1.weight for red, green and blue, in this order, as in weight[:, [0, 1, 2]]"
        )
    return channels


def spread_over_rgb(weight: Tensor) -> Tensor:
    """Convert the first convolution of an encoder for greyscale images to one for RGB images with the same output.

    Greyscale is linear in red, green and blue, and so is the convolution. The greyscale mean is the greyscale value of
    the RGB mean, so padding with zeros remains correct.

    Args:
        weight: C x 1 x H x W, for greyscale images minus `GREY_MEAN`, divided by `GREY_STD`.

    Returns:
        C x 3 x H x W, for RGB images minus `RGB_MEAN`, divided by `RGB_STD`.
    """
    factors = torch.tensor(GREY_SHARES) * torch.tensor(RGB_STD) / GREY_STD[0]
    return weight * factors.view(1, 3, 1, 1)
