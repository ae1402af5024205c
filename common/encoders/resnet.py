"""ResNets of various depths and widths with torchvision's names, and recognition of a ResNet by its tensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


@dataclass(frozen=True)
class Architecture:
    """A ResNet architecture.

    Attributes:
        depth: number of layers with weights, from which detectron2 derives the number of blocks.
        blocks: number of blocks in layer1 to layer4.
        bottleneck: whether blocks consist of 1x1, 3x3 and 1x1 convolutions with an output four times as wide; otherwise
            they consist of two 3x3 convolutions.
        width: factor by which the channels of every layer are multiplied, including the stem (w2x and w4x in table 1 of
            the MoCo paper).
        groups: number of groups in the 3x3 convolutions of bottlenecks, the first number in "32x8d".
        width_per_group: number of channels per group in layer1, before multiplication by ``width``; the second number.
    """

    depth: int
    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    width: int = 1
    groups: int = 1
    width_per_group: int = 64

    @property
    def stem_channels(self) -> int:
        """Number of channels after the first convolution."""
        return 64 * self.width

    @property
    def inner_channels(self) -> int:
        """Number of channels in the 3x3 convolutions of layer1; it doubles with each later layer."""
        return self.groups * self.width_per_group * self.width

    @property
    def layer1_channels(self) -> int:
        """Number of channels after layer1; it doubles with each later layer."""
        return (256 if self.bottleneck else 64) * self.width


# [He et al. 2016, table 1]; wide: [MoCo, table 1] (all layers) and [Zagoruyko and Komodakis 2016] (3x3 convolutions
# only, torchvision's wide_resnet); groups: [Xie et al. 2017], where 50 layers with 32x8d are the paper's RX50.
ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(18, (2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture(34, (3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture(50, (3, 4, 6, 3)),
    "resnet101": Architecture(101, (3, 4, 23, 3)),
    "resnet152": Architecture(152, (3, 8, 36, 3)),
    "resnet50w2": Architecture(50, (3, 4, 6, 3), width=2),
    "resnet50w4": Architecture(50, (3, 4, 6, 3), width=4),
    "wide_resnet50_2": Architecture(50, (3, 4, 6, 3), width_per_group=128),
    "wide_resnet101_2": Architecture(101, (3, 4, 23, 3), width_per_group=128),
    "resnext50_32x4d": Architecture(50, (3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext50_32x8d": Architecture(50, (3, 4, 6, 3), groups=32, width_per_group=8),
    "resnext101_32x8d": Architecture(101, (3, 4, 23, 3), groups=32, width_per_group=8),
    "resnext101_64x4d": Architecture(101, (3, 4, 23, 3), groups=64, width_per_group=4),
}


def build_resnet(
    arch: str,
    norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    small_stem: bool = False,
    num_classes: int = 1000,
    channels: int = 3,
) -> ResNet:
    """Build a ResNet that maps images, N x C x H x W, to N x ``num_classes``, initialised as in torchvision.

    The stride of a bottleneck is in its 3x3 convolution. Before pooling, the side of the features is 1/32 of the
    image's side, or 1/8 with ``small_stem``.

    Args:
        arch: a key of `ARCHITECTURES`.
        norm_layer: creates the normalisation layer for a given number of channels.
        small_stem: begin with a 3x3 convolution of stride 1 and no max-pool instead of a 7x7 convolution of stride 2
            and a max-pool; intended for images of 32 to 64 px.
        num_classes: number of outputs of the last layer, ``fc``.
        channels: C, the number of image channels.

    Raises:
        ValueError: ``arch`` is unknown.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown encoder {arch!r}; expected one of {', '.join(ARCHITECTURES)}")
    shape = ARCHITECTURES[arch]
    build = ResNet if shape.width == 1 else partial(_WideResNet, shape.width)
    network = build(
        Bottleneck if shape.bottleneck else BasicBlock,
        list(shape.blocks),
        num_classes=num_classes,
        groups=shape.groups,
        width_per_group=shape.width_per_group,
        norm_layer=norm_layer,
    )
    if small_stem:
        network.conv1 = _first_convolution(channels, shape.stem_channels, kernel_size=3, stride=1)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = _first_convolution(channels, shape.stem_channels, kernel_size=7, stride=2)
    return network


def recognise_resnet(tensors: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the key in `ARCHITECTURES` for tensors with torchvision's names, and whether the stem is the small one.

    The decision depends only on names and shapes. A stem is small if its convolution is 3x3, because a file does not
    show its stride or a missing max-pool. The caller checks that all tensors exist and have the right shape: a missing
    or malformed tensor is skipped here if others provide the same information.

    Raises:
        ValueError: no architecture in the table has these blocks, or blocks of this width.
    """
    layers = [{m[1] for name in tensors if (m := re.match(rf"layer{i}\.(\d+)\.", name))} for i in (1, 2, 3, 4)]
    blocks = tuple(map(len, layers))
    bottleneck = any(re.match(r"layer\d\.\d+\.conv3\.", name) for name in tensors)
    seen = f"the encoder has {blocks} {'bottleneck' if bottleneck else 'basic'} blocks in layer1 to layer4"
    family = {
        arch: shape for arch, shape in ARCHITECTURES.items() if (shape.blocks, shape.bottleneck) == (blocks, bottleneck)
    }
    if not family:
        sizes = dict.fromkeys((shape.depth, shape.blocks) for shape in ARCHITECTURES.values())
        known = ", ".join(f"{depth}: {numbers}" for depth, numbers in sizes)
        raise ValueError(f"{seen}; expected a complete ResNet ({known})")
    # Output channels, input channels per group, height and width of each convolution's weight.
    shapes = {name: value.shape for name, value in tensors.items() if isinstance(value, Tensor) and value.ndim == 4}
    stem, after_stem = shapes.get("conv1.weight"), shapes.get("layer1.0.conv1.weight")
    inner = next(filter(None, (shapes.get(f"layer1.{block}.conv2.weight") for block in range(blocks[0]))), None)
    found: dict[str, int] = {}
    if after_stem:
        found["stem_channels"] = after_stem[1]
    elif stem:
        found["stem_channels"] = stem[0]
    if inner:
        found["inner_channels"], found["groups"] = inner[0], inner[0] // max(inner[1], 1)
    for arch, shape in family.items():
        if all(getattr(shape, key) == value for key, value in found.items()):
            return arch, stem is not None and stem[2:] == (3, 3)
    numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found.items())
    raise ValueError(
        f"{seen}, but no known ResNet combines these with {numbers} (inner: the 3x3 convolutions of"
        f" layer1); expected one of {', '.join(family)}"
    )


class _WideResNet(ResNet):
    """torchvision's ResNet with every number of channels multiplied by ``width``.

    torchvision's ``width_per_group`` widens only the 3x3 convolutions. This class also widens the stem, the block
    outputs and the features before ``fc``, as in the wide networks of the paper's table 1.
    """

    fc: nn.Linear

    def __init__(self, width: int, block: type[Bottleneck], layers: list[int], **options: Any) -> None:
        self._width = width  # needed by `_make_layer`, which the parent's constructor calls
        super().__init__(block, layers, **options)
        channels = 64 * width
        self.conv1 = _first_convolution(3, channels, kernel_size=7, stride=2)
        self.bn1 = self._norm_layer(channels)
        self.fc = nn.Linear(self.fc.in_features * width, self.fc.out_features)

    def _make_layer(self, block: type[Bottleneck], planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == 64:  # layer1, whose input comes from the stem
            self.inplanes = 64 * self._width
        return super()._make_layer(block, planes * self._width, *args, **kwargs)


def _first_convolution(channels_in: int, channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as in torchvision
    return convolution
