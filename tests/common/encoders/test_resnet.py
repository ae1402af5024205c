"""Architectures against torchvision's own and against counts made from the papers' tables; nothing large is filled."""

import re

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from mocodet.common.encoders.resnet import ARCHITECTURES, build_resnet, recognise_resnet

# Architectures that torchvision builds itself, under these names.
SHARED = sorted(arch for arch in ARCHITECTURES if hasattr(torchvision.models, arch))


def on_meta(build, *args, **kwargs) -> nn.Module:
    """Build on the meta device: names, shapes and modules without memory or random numbers."""
    with torch.device("meta"):
        return build(*args, **kwargs)


def count_parameters(blocks, bottleneck, width, groups, group_width, classes: int, stem_area: int = 49) -> int:
    """Count weights from the tables of He et al. and Xie et al.: convolutions without bias, two numbers per norm."""
    before = 64 * width
    total = 3 * before * stem_area + 2 * before
    for stage, number in enumerate(blocks):
        planes = 64 * width * 2**stage
        inner = groups * group_width * width * 2**stage
        after = 4 * planes if bottleneck else planes
        for block in range(number):
            source = before if block == 0 else after
            if bottleneck:
                total += source * inner + inner * inner // groups * 9 + inner * after + 2 * (inner + inner + after)
            else:
                total += source * planes * 9 + planes * planes * 9 + 4 * planes
            if block == 0 and source != after:
                total += source * after + 2 * after
        before = after
    return total + before * classes + classes


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_architectures__cover_the_paper() -> None:
    assert {"resnet18", "resnet34", "resnet50", "resnet101", "resnet50w2", "resnet50w4", "resnext50_32x8d"} <= set(
        ARCHITECTURES
    )
    assert len(SHARED) == 10


@pytest.mark.parametrize("arch", SHARED)
def test_build_resnet__is_torchvisions(arch: str) -> None:
    ours, theirs = on_meta(build_resnet, arch, num_classes=7), on_meta(getattr(torchvision.models, arch), num_classes=7)
    assert repr(ours) == repr(theirs)  # all modules with their channels, strides, paddings and groups
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_build_resnet__initialised_as_torchvisions() -> None:
    torch.manual_seed(3)
    ours = build_resnet("resnet18").state_dict()
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18().state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("arch", "layout", "millions"),
    [
        # In the paper's table 1 the encoders have 24, 94, 375 and 46 million parameters.
        ("resnet50", ((3, 4, 6, 3), True, 1, 1, 64), 24),
        ("resnet50w2", ((3, 4, 6, 3), True, 2, 1, 64), 94),
        ("resnet50w4", ((3, 4, 6, 3), True, 4, 1, 64), 375),
        ("resnext50_32x8d", ((3, 4, 6, 3), True, 1, 32, 8), 46),
        ("resnet34", ((3, 4, 6, 3), False, 1, 1, 64), 21),
    ],
)
@pytest.mark.parametrize("small_stem", [False, True])
def test_build_resnet__parameters(arch: str, layout: tuple, millions: int, small_stem: bool) -> None:
    model = on_meta(build_resnet, arch, small_stem=small_stem)
    assert parameters(model) == count_parameters(*layout, classes=1000, stem_area=9 if small_stem else 49)
    model.fc = nn.Identity()
    assert abs(parameters(model) / 1e6 - millions) < 1


def test_build_resnet__all_widths_doubled() -> None:
    """Every tensor of the wide network has twice the channels, except those of the image and of the classes."""
    narrow = on_meta(build_resnet, "resnet50", num_classes=10).state_dict()
    wide = on_meta(build_resnet, "resnet50w2", num_classes=10).state_dict()
    assert list(wide) == list(narrow)
    for name, value in wide.items():
        fixed = {0: 10} if name.startswith("fc.") else {1: 3} if name == "conv1.weight" else {}
        expected = [fixed.get(i, size if i > 1 else 2 * size) for i, size in enumerate(narrow[name].shape)]
        assert list(value.shape) == expected, name


@pytest.mark.parametrize(("arch", "small_stem"), [("resnet50w2", False), ("resnet50w2", True), ("resnet18", True)])
def test_build_resnet__first_convolution(arch: str, small_stem: bool) -> None:
    model = on_meta(build_resnet, arch, small_stem=small_stem, num_classes=5)
    assert model.bn1.num_features == model.conv1.out_channels == model.layer1[0].conv1.in_channels
    assert (model.conv1.kernel_size, model.conv1.stride) == (((3, 3), (1, 1)) if small_stem else ((7, 7), (2, 2)))
    assert isinstance(model.maxpool, nn.Identity) == small_stem
    assert model.fc.out_features == 5


@pytest.mark.parametrize("kernel", [3, 7])
def test_build_resnet__replaced_convolution_has_he_initialisation(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    original = nn.init.kaiming_normal_

    def record(weight: torch.Tensor, **options) -> torch.Tensor:
        if weight.shape[1] == 3:  # the first convolution; the others would take seconds
            drawn[tuple(weight.shape)] = original(weight, **options).std().item()
        return weight

    monkeypatch.setattr(nn.init, "kaiming_normal_", record)
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda weight, **options: weight)
    torch.manual_seed(0)
    build_resnet("resnet50w2", small_stem=kernel == 3, num_classes=2)
    # Fan-out: output channels times the kernel's area [He et al. 2015].
    assert drawn[128, 3, kernel, kernel] == pytest.approx((2 / (128 * kernel**2)) ** 0.5, rel=0.06)


@pytest.mark.parametrize(("small_stem", "side"), [(False, 32), (True, 8)])
@pytest.mark.parametrize("arch", ["resnet18", "resnext50_32x8d"])
def test_build_resnet__output_stride(arch: str, small_stem: bool, side: int) -> None:
    model = on_meta(build_resnet, arch, small_stem=small_stem, num_classes=3)
    sizes = []
    model.layer4.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape[2:])))
    logits = model(torch.empty(2, 3, 64, 96, device="meta"))
    assert sizes == [(64 // side, 96 // side)]
    assert logits.shape == (2, 3)


class OtherNorm(nn.BatchNorm2d):
    """A norm that differs from the default."""


@pytest.mark.parametrize("arch", ["resnet50w2", "resnet50w4", "resnext50_32x8d", "resnet18"])
@pytest.mark.parametrize("small_stem", [False, True])
def test_build_resnet__norm_layer(arch: str, small_stem: bool) -> None:
    model = on_meta(build_resnet, arch, OtherNorm, small_stem)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(norms) == len(convolutions)
    assert all(type(norm) is OtherNorm for norm in norms)


def test_build_resnet__unknown() -> None:
    with pytest.raises(ValueError, match="unknown encoder 'vgg16'; expected one of resnet18, resnet34"):
        build_resnet("vgg16")


@pytest.mark.parametrize("small_stem", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_recognise_resnet(arch: str, small_stem: bool) -> None:
    state = on_meta(build_resnet, arch, small_stem=small_stem, num_classes=2).state_dict()
    assert recognise_resnet(state) == (arch, small_stem)
    # The order of names and other tensors play no part; missing ones are found by the model.
    backwards = {name: state[name] for name in reversed(state) if not name.endswith("num_batches_tracked")}
    assert recognise_resnet({"queue": torch.zeros(1), **backwards}) == (arch, small_stem)
    without = {name: value for name, value in state.items() if name not in ("layer1.0.conv1.weight", "fc.weight")}
    assert recognise_resnet(without) == (arch, small_stem)
    without = {name: value for name, value in state.items() if name not in ("layer1.0.conv2.weight", "bn1.weight")}
    assert recognise_resnet(without) == (arch, small_stem)


@pytest.mark.parametrize(
    ("block", "layers", "options", "message"),
    [
        (
            BasicBlock,
            [2, 2, 2, 3],
            {},
            r"has \(2, 2, 2, 3\) basic blocks .*expected a complete ResNet \(18: \(2, 2, 2, 2\)",
        ),
        (Bottleneck, [2, 2, 2, 2], {}, r"has \(2, 2, 2, 2\) bottleneck blocks"),
        (
            Bottleneck,
            [3, 4, 6, 3],
            {"groups": 16, "width_per_group": 8},
            r"stem channels 64, inner channels 128, groups 16 .*expected one of resnet50, resnet50w2",
        ),
        (
            Bottleneck,
            [3, 4, 23, 3],
            {"width_per_group": 96},
            r"inner channels 96, groups 1 .*expected one of resnet101",
        ),
    ],
    ids=["basic blocks", "bottlenecks", "groups", "width"],
)
def test_recognise_resnet__unknown(block: type, layers: list[int], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        recognise_resnet(on_meta(ResNet, block, layers, **options).state_dict())
    assert "\n" not in str(caught.value)


def test_recognise_resnet__no_tensors() -> None:
    with pytest.raises(ValueError, match=re.escape("has (0, 0, 0, 0) basic blocks")):
        recognise_resnet({})


def test_recognise_resnet__odd_values() -> None:
    state = dict(on_meta(build_resnet, "resnet18").state_dict())
    state["layer1.0.conv2.weight"] = [1.0]
    state["conv1.weight"] = torch.zeros(())
    assert recognise_resnet(state) == ("resnet18", False)
