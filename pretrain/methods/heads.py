"""Encoders of the contrastive methods: a ResNet with a projection head (sections 3.3, 4; MoCo v2) or dense head."""

from collections.abc import Callable
from functools import partial

from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.encoders.resnet import ARCHITECTURES, build_resnet

from ..keys import POSITIVE, Key, at_least, one_of
from .grouped_bn import GroupedBatchNorm2d
from .shuffle_bn import bn_groups

HEADS = ("fc", "mlp")

# Keys that all contrastive methods use.
CONTRAST_KEYS = {
    "MODEL.HEAD": Key("mlp", 'Projection head: "fc" (MoCo v1) or "mlp" (MoCo v2).', one_of(*HEADS)),
    "MODEL.DIM": Key(128, "C, the dimension of queries and keys.", at_least(1)),
    "MODEL.BN_GROUPS": Key(
        0,
        "Number of groups into which the batch of a process is divided for batch-norm statistics, as if each group were"
        " on its own device. With multiple processes, one group is enough. With a single process, one group would"
        " disable Shuffling BN. 0 means one group with multiple processes and eight groups with one process, which"
        " gives a single GPU the same statistics as the eight GPUs in the paper.",
        at_least(0),
    ),
    "CONTRAST.TEMPERATURE": Key(0.2, "tau, the temperature of InfoNCE: 0.07 in MoCo v1, 0.2 in v2.", POSITIVE),
}


def build_encoder(
    arch: str,
    head: str = "mlp",
    dim: int = 128,
    norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    small_stem: bool = False,
) -> nn.Module:
    """Build a ResNet that maps images, N x 3 x H x W, to unnormalised vectors, N x ``dim``.

    Args:
        arch: one of `ARCHITECTURES`, in torchvision's variant, where the 3x3 convolution of a block has the stride.
        head: ``"fc"``, a single linear layer (MoCo v1), or ``"mlp"``, two linear layers with a ReLU in between and a
            hidden layer as wide as the pooled features (MoCo v2).
        dim: C, the dimension of queries and keys; 128 in the paper.
        norm_layer: builds the normalisation layer for a given number of channels.
        small_stem: whether to use a 3x3 first convolution with stride 1 and no max-pooling, for images of 32 to 64 px.

    Raises:
        ValueError: ``arch`` or ``head`` is unknown.
    """
    if head not in HEADS:
        raise ValueError(f"unknown projection head {head!r}; expected one of {', '.join(HEADS)}")
    encoder = build_resnet(arch, norm_layer, small_stem, num_classes=dim)
    if head == "mlp":
        width = encoder.fc.in_features
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
    return encoder


def encoder_from_config(cfg: CfgNode) -> nn.Module:
    """Build the encoder of a contrastive method, with ``MODEL.BN_GROUPS`` batch-norm groups.

    Raises:
        ValueError: see `bn_groups` and `build_encoder`.
    """
    groups = bn_groups(cfg)
    norm = nn.BatchNorm2d if groups == 1 else partial(GroupedBatchNorm2d, num_groups=groups)
    return build_encoder(cfg.MODEL.ARCH, cfg.MODEL.HEAD, cfg.MODEL.DIM, norm, cfg.MODEL.SMALL_STEM)


def build_dense_head(width: int, dim: int = 128) -> nn.Module:
    """Build DenseCL's dense head, which applies MoCo v2's head to each cell and maps ``width`` to ``dim`` channels."""
    return nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, dim, 1))


def dense_head_from_config(cfg: CfgNode) -> nn.Module:
    """Build the dense head for the encoder of `encoder_from_config`."""
    width = 8 * ARCHITECTURES[cfg.MODEL.ARCH].layer1_channels  # each subsequent layer doubles the number of channels
    return build_dense_head(width, cfg.MODEL.DIM)
