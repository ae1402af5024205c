"""Encoders in checkpoints of every layout; damaged or unknown tensors are refused by name."""

import pytest
import torch
from torch import nn

from mocodet.common.encoders.find import holds_encoder
from mocodet.common.encoders.reading import extract_encoder
from mocodet.common.encoders.resnet import build_resnet
from tests.encoders import checkpoint_of, encoder


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return encoder("resnet18")


def constant_state(arch: str, small_stem: bool = False) -> dict[str, torch.Tensor]:
    """All of a network's names and shapes with the value 1 in one cell of memory."""
    with torch.device("meta"):
        state = build_resnet(arch, small_stem=small_stem, num_classes=16).state_dict()
    return {name: torch.ones((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("small_stem", [False, True])
@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet50w2", "resnext50_32x8d"])
def test_extract_encoder__architectures(arch: str, small_stem: bool) -> None:
    state = constant_state(arch, small_stem)
    found = extract_encoder({"model": {f"encoder_q.{name}": value for name, value in state.items()}})
    assert (found.arch, found.small_stem) == (arch, small_stem)
    kept = {name for name in state if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}
    assert set(found.tensors) == kept


def test_extract_encoder__reports_what_it_found(resnet18: nn.Module) -> None:
    found = extract_encoder(checkpoint_of(resnet18, "original"))
    total = 2 * len(resnet18.state_dict()) + 2
    assert (found.arch, found.small_stem) == ("resnet18", False)
    assert found.prefix == "module.encoder_q."
    assert found.kind == "MoCo query encoder, original format"
    assert found.notes == ("passed over: 'module.encoder_k.' (use the converter's --prefix to select it instead)",)
    assert found.progress == "arch resnet, epoch 200"
    assert len(found.tensors) + sum(found.left_out.values()) == total
    ours = extract_encoder(checkpoint_of(resnet18, "ours"))
    assert (ours.prefix, ours.progress) == ("encoder_q.", "iteration 41")
    supervised = extract_encoder(checkpoint_of(resnet18, "supervised"))
    assert (supervised.prefix, supervised.kind) == ("encoder.", "mocodet classifier, mocodet format")
    bare = extract_encoder(resnet18.state_dict())
    assert (bare.prefix, bare.kind) == ("", "torchvision ResNet, bare state dict")
    for other in (ours, supervised, bare):
        assert all(torch.equal(value, found.tensors[name]) for name, value in other.tensors.items())
        assert len(other.tensors) == len(found.tensors)


@pytest.mark.parametrize("prefix", ["module.encoder_k.", "module.encoder_k", "encoder_k."])
def test_extract_encoder__prefix(resnet18: nn.Module, prefix: str) -> None:
    found = extract_encoder(checkpoint_of(resnet18, "original"), prefix)
    assert found.prefix == "module.encoder_k."
    assert torch.equal(found.tensors["conv1.weight"], resnet18.conv1.weight + 1)


def drop(name: str):
    return lambda state: state.pop(f"module.encoder_q.{name}")


def put(name: str, value: object):
    return lambda state: state.__setitem__(f"module.encoder_q.{name}", value)


def poison(name: str, value: float):
    return lambda state: state[f"module.encoder_q.{name}"].view(-1)[-1:].fill_(value)


def drop_encoder(state: dict) -> None:
    for name in [name for name in state if "encoder_q" in name]:
        del state[name]


def drop_block(state: dict) -> None:
    for name in [name for name in state if "encoder_q.layer3.1." in name]:
        del state[name]


def drop_statistics(state: dict) -> None:
    for name in [name for name in state if "encoder_q" in name and "running" in name]:
        del state[name]


DEFECTS = {
    "no encoder": (drop_encoder, r"no encoder in a known layout.*'module\.encoder_k\.'.*--prefix"),
    "missing tensor": (drop("layer2.0.bn1.running_mean"), r"missing module\.encoder_q\.layer2\.0\.bn1\.running_mean"),
    "missing stem": (drop("conv1.weight"), r"missing module\.encoder_q\.conv1\.weight"),
    "missing inner": (drop("layer1.0.conv2.weight"), r"for a resnet18: missing .*encoder_q\.layer1\.0\.conv2\.weight"),
    "missing block": (drop_block, r"has \(2, 2, 1, 2\) basic blocks"),
    "unknown tensor": (put("layer1.0.gate", torch.ones(2)), r"does not have: module\.encoder_q\.layer1\.0\.gate"),
    "wrong kernel": (put("conv1.weight", torch.ones(64, 3, 5, 5)), r"conv1\.weight has shape \(64, 3, 5, 5\).*7, 7\)"),
    "channels": (
        put("conv1.weight", torch.ones(64, 4, 7, 7)),
        r"4 channels .*one or three channels; .* red, green and",
    ),
    "wrong width": (put("layer1.0.conv2.weight", torch.ones(32, 32, 3, 3)), r"inner channels 32, groups 1"),
    "wrong type": (put("conv1.weight", torch.ones(64, 3, 7, 7).byte()), r"torch\.uint8.*expected.* float32"),
    "no memory": (put("conv1.weight", torch.ones(64, 3, 7, 7, device="meta")), r"on meta; expected a dense tensor"),
    "deep stem": (put("conv1.0.weight", torch.ones(32, 3, 3, 3)), r"deep stem of three.*module\.encoder_q\.conv1\.0"),
    "mm deep stem": (
        put("stem.0.weight", torch.ones(32, 3, 3, 3)),
        r"deep stem of three.*it contains .*stem\.0\.weight",
    ),
    "average pool": (put("layer2.0.downsample.2.weight", torch.ones(2)), r"average pooling before .*downsample\.2"),
    "attention": (put("layer1.0.se.fc1.weight", torch.ones(2)), r"channel attention.*it contains .*layer1\.0\.se\.fc1"),
    "group norm": (
        drop_statistics,
        r"norm layers have no running statistics.*bn1\.weight has no matching running_mean",
    ),
    "no tensor": (put("bn1.bias", [1.0]), r"bn1\.bias is a list"),
    "nan": (poison("layer4.1.conv2.weight", float("nan")), r"layer4\.1\.conv2\.weight contains NaN or infinite values"),
    "inf": (poison("bn1.running_mean", float("inf")), r"bn1\.running_mean contains NaN or infinite values"),
    "negative variance": (poison("bn1.running_var", -1.0), r"bn1\.running_var contains negative variances"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_extract_encoder__defects(resnet18: nn.Module, defect: str) -> None:
    damage, message = DEFECTS[defect]
    content = checkpoint_of(resnet18, "original")
    damage(content["state_dict"])
    with pytest.raises(ValueError, match=message) as caught:
        extract_encoder(content)
    assert "\n" not in str(caught.value)


def test_extract_encoder__no_dict() -> None:
    with pytest.raises(ValueError, match="contains a list; expected a dict"):
        extract_encoder([1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_extract_encoder__other_floats(resnet18: nn.Module, dtype: torch.dtype) -> None:
    state = {name: v.to(dtype) if v.is_floating_point() else v for name, v in resnet18.state_dict().items()}
    found = extract_encoder(state)
    assert found.notes == (f"weights of type {dtype} are converted to torch.float32",)
    assert all(torch.equal(value, state[name].float()) for name, value in found.tensors.items())
    assert {value.dtype for value in found.tensors.values()} == {torch.float32}


def test_extract_encoder__too_large_for_float32(resnet18: nn.Module) -> None:
    state = {**resnet18.state_dict(), "bn1.bias": torch.full((64,), 1e300, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"bn1\.bias contains NaN or infinite values"):
        extract_encoder(state)


@pytest.mark.parametrize("small_stem", [False, True])
def test_encoder_build(small_stem: bool) -> None:
    torch.manual_seed(0)
    source = build_resnet("resnet18", small_stem=small_stem, num_classes=16)
    source(torch.randn(4, 3, 32, 32))  # moves the running statistics
    found = extract_encoder(source.to(memory_format=torch.channels_last).state_dict())
    before = torch.get_rng_state()
    built = found.build()
    assert torch.equal(torch.get_rng_state(), before)

    images = torch.randn(2, 3, 48, 64)
    source.fc = nn.Identity()
    with torch.no_grad():
        features = built(images)
        torch.testing.assert_close(features, source.eval()(images))
    assert features.shape == (2, 512)
    assert not built.training
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in built.parameters())
    assert {value.device.type for value in built.state_dict().values()} == {"cpu"}

    # It is a copy: training it leaves the encoder as it was.
    with torch.no_grad():
        built.conv1.weight.zero_()
    assert found.tensors["conv1.weight"].abs().sum() > 0
    built.train()(images)
    assert built.bn1.num_batches_tracked == 1


def test_holds_encoder(resnet18: nn.Module) -> None:
    assert holds_encoder(checkpoint_of(resnet18, "original"))
    assert holds_encoder(checkpoint_of(resnet18, "ours"))
    assert holds_encoder(checkpoint_of(resnet18, "supervised"))
    assert holds_encoder(resnet18.state_dict())
    backbone = {"stem.conv1.weight": torch.ones(1), "res2.0.conv1.norm.weight": torch.ones(1)}  # detectron2's names
    assert not holds_encoder({"model": {f"backbone.bottom_up.{name}": value for name, value in backbone.items()}})
    assert not holds_encoder({"model": backbone, "iteration": 3})
    assert not holds_encoder([resnet18.state_dict()])
    assert not holds_encoder({0: torch.ones(1), "model": {1: torch.ones(1)}})
