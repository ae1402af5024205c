"""Encoders f: a ResNet whose last layer is the projection head (sections 3.3 and 4; MoCo v2)."""

from collections.abc import Callable

from torch import nn

from mocodet.common.encoders.resnet import build_resnet

HEADS = ("fc", "mlp")


def build_encoder(
    arch: str,
    head: str = "mlp",
    dim: int = 128,
    norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    small_stem: bool = False,
) -> nn.Module:
    """Build a ResNet that maps images, N x 3 x H x W, to vectors, N x ``dim``, that are not yet normalised.

    Args:
        arch: one of `ARCHITECTURES`. Torchvision's form: the stride sits in the 3x3 convolution
            of a block.
        head: ``"fc"``, one linear layer (MoCo v1), or ``"mlp"``, two with a ReLU between, the hidden one as wide as
            the pooled features (MoCo v2).
        dim: C, the dimension of queries and keys; 128 in the paper.
        norm_layer: makes the normalisation layer for a number of channels.
        small_stem: 3x3 stride-1 first convolution and no max-pool, for images of 32 to 64 px.

    Raises:
        ValueError: unknown ``arch`` or ``head``.
    """
    if head not in HEADS:
        raise ValueError(f"unknown projection head {head!r}; expected one of {', '.join(HEADS)}")
    encoder = build_resnet(arch, norm_layer, small_stem, num_classes=dim)
    if head == "mlp":
        width = encoder.fc.in_features
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
    return encoder
