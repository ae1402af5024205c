"""Encoders f: a torchvision ResNet whose last layer is the projection head (sections 3.3 and 4; MoCo v2)."""

from collections.abc import Callable

import torchvision.models
from torch import nn

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
HEADS = ("fc", "mlp")


def build_encoder(
    arch: str, head: str = "mlp", dim: int = 128, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Module:
    """Build a ResNet that maps images, N x 3 x H x W, to vectors, N x ``dim``, that are not yet normalised.

    Args:
        arch: one of ``ARCHITECTURES``. Torchvision's form: the stride sits in the 3x3 convolution of a block.
        head: ``"fc"``, one linear layer (MoCo v1), or ``"mlp"``, two with a ReLU between, the hidden one as wide as
            the pooled features (MoCo v2).
        dim: C, the dimension of queries and keys; 128 in the paper.
        norm_layer: makes the normalisation layer for a number of channels.

    Raises:
        ValueError: unknown ``arch`` or ``head``.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown encoder {arch!r}; expected one of {', '.join(ARCHITECTURES)}")
    if head not in HEADS:
        raise ValueError(f"unknown projection head {head!r}; expected one of {', '.join(HEADS)}")
    encoder = getattr(torchvision.models, arch)(weights=None, num_classes=dim, norm_layer=norm_layer)
    if head == "mlp":
        width = encoder.fc.in_features
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
    return encoder
