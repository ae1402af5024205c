"""Conversion against detectron2's and torchvision's own modules, paired by structure and not by name."""

import os
import pickle
import random
from collections import OrderedDict
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from mocodet.common.encoders.reading import Encoder, extract_encoder
from mocodet.common.encoders.resnet import ARCHITECTURES, build_resnet
from mocodet.detection.weights import convert, settings
from mocodet.pretrain.methods.grouped_bn import GroupedBatchNorm2d
from mocodet.pretrain.methods.heads import build_encoder
from mocodet.pretrain.methods.moco import MomentumContrast
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from tests.encoders import checkpoint_of, encoder


def detectron2_resnet(depth: int) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_backbone(cfg)


def configured_resnet(needed: dict) -> nn.Module:
    """detectron2's ResNet, without memory, from its defaults and the settings that the converter lists."""
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    for key, value in needed.items():
        cfg.merge_from_list([key, value])
    with torch.device("meta"):
        return build_backbone(cfg)


def paired_modules(detectron2: nn.Module, torchvision_model: nn.Module):
    """Pair the modules of the two libraries by their place in the network."""
    yield detectron2.stem.conv1, torchvision_model.conv1
    yield detectron2.stem.conv1.norm, torchvision_model.bn1
    stages = zip(detectron2.stages, [getattr(torchvision_model, f"layer{i}") for i in (1, 2, 3, 4)], strict=True)
    for ours, theirs in stages:
        for block, reference in zip(ours, theirs, strict=True):
            for i in (1, 2, 3):
                if hasattr(reference, f"conv{i}"):
                    yield getattr(block, f"conv{i}"), getattr(reference, f"conv{i}")
                    yield getattr(block, f"conv{i}").norm, getattr(reference, f"bn{i}")
            if reference.downsample is not None:
                yield block.shortcut, reference.downsample[0]
                yield block.shortcut.norm, reference.downsample[1]


def save(content: object, path: Path, **kwargs) -> Path:
    torch.save(content, path, **kwargs)
    return path


def read(path: Path) -> dict:
    with path.open("rb") as handle:
        return pickle.load(handle)


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return encoder("resnet18")


@pytest.mark.parametrize(
    ("depth", "head", "layout"),
    [
        (18, "v1", "original"),
        (18, "v2", "original"),
        (18, "v2", "ours"),
        (18, "v1", "supervised"),
        (50, "v1", "original"),
        (50, "v2", "ours"),
    ],
)
def test_convert_file__names_and_values(tmp_path: Path, depth: int, head: str, layout: str) -> None:
    model = encoder(f"resnet{depth}", head)
    output = tmp_path / "out.pkl"
    conversion = convert.convert_file(save(checkpoint_of(model, layout), tmp_path / "in.pth"), output)
    content = read(output)
    assert content["__author__"] == "mocodet"
    assert content["matching_heuristics"] is True

    backbone = detectron2_resnet(depth)
    expected_names = {name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(content["model"]) == expected_names
    assert len(conversion.encoder.tensors) == len(expected_names)

    # Values, checked independently: a plain load_state_dict, then module by module against the source.
    backbone.load_state_dict({name: torch.from_numpy(value) for name, value in content["model"].items()})
    compared = 0
    for ours, theirs in paired_modules(backbone, model):
        for name, value in theirs.state_dict().items():
            if name != "num_batches_tracked":
                assert torch.equal(ours.state_dict()[name], value)
                compared += 1
    assert compared == len(expected_names)
    assert all(value.dtype == np.float32 for value in content["model"].values())
    assert set(conversion.differences) == {"res2", "res3", "res4", "res5"}
    assert max(conversion.differences.values()) <= 1e-5


# Filling the widest would take seconds and 1.5 GB; its names and shapes are compared below.
@pytest.mark.parametrize(
    ("arch", "channels"), [*((arch, 3) for arch in ARCHITECTURES if arch != "resnet50w4"), ("resnet18", 1)]
)
def test_to_detectron2__activations(arch: str, channels: int) -> None:
    """With the settings that the converter lists, a ResNet computes the same as the encoder."""
    reference = encoder(arch, channels=channels).eval()
    found = extract_encoder(reference.state_dict())
    assert (found.arch, found.channels) == (arch, channels)
    backbone = configured_resnet(settings.required_config(found)).eval()
    arrays = convert.to_detectron2(found)["model"]
    backbone.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()}, assign=True)

    expected = {}
    for stage in (1, 2, 3, 4):
        getattr(reference, f"layer{stage}").register_forward_hook(
            lambda module, args, output, stage=stage: expected.__setitem__(f"res{stage + 1}", output)
        )
    images = torch.randn(1, channels, 64, 64)
    with torch.no_grad():
        reference(images)
        computed = backbone(images)
    assert set(computed) == set(expected)
    for stage, features in expected.items():
        assert features.std() > 0.1  # signal that arrives, and not a constant
        torch.testing.assert_close(computed[stage], features, rtol=0, atol=1e-5 * features.abs().max().item())


@pytest.mark.parametrize("arch", ["resnet50w4", "resnet50w2"])
def test_to_detectron2__names_and_shapes(arch: str) -> None:
    with torch.device("meta"):
        state = build_resnet(arch).state_dict()
    tensors = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    needed = settings.required_config(Encoder("", "", arch, False, tensors, {}, ""))
    expected = {name: value.shape for name, value in configured_resnet(needed).state_dict().items()}
    expected = {name: shape for name, shape in expected.items() if not name.endswith("num_batches_tracked")}
    assert {convert.detectron2_name(name): value.shape for name, value in tensors.items()} == expected


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("resnet50", {"DEPTH": 50}),
        ("resnet34", {"DEPTH": 34, "RES2_OUT_CHANNELS": 64}),
        ("resnet101", {"DEPTH": 101}),
        ("resnet50w2", {"DEPTH": 50, "STEM_OUT_CHANNELS": 128, "RES2_OUT_CHANNELS": 512, "WIDTH_PER_GROUP": 128}),
        ("resnet50w4", {"DEPTH": 50, "STEM_OUT_CHANNELS": 256, "RES2_OUT_CHANNELS": 1024, "WIDTH_PER_GROUP": 256}),
        ("resnext50_32x8d", {"DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8}),
        ("wide_resnet50_2", {"DEPTH": 50, "WIDTH_PER_GROUP": 128}),
    ],
)
def test_required_config(arch: str, expected: dict) -> None:
    found = settings.required_config(Encoder("", "", arch, False, {}, {}, ""))
    assert {key: found[key] for key in settings.REQUIRED_CONFIG} == settings.REQUIRED_CONFIG
    special = {key: value for key, value in found.items() if key not in settings.REQUIRED_CONFIG}
    assert special == {f"MODEL.RESNETS.{key}": value for key, value in expected.items()}


def test_convert_file__small_stem(tmp_path: Path) -> None:
    source = save(checkpoint_of(build_resnet("resnet18", small_stem=True), "supervised"), tmp_path / "in.pth")
    with pytest.raises(
        ValueError, match=r"in\.pth: this resnet18 has the small stem.*linear evaluation.*SMALL_STEM False"
    ) as caught:
        convert.convert_file(source, tmp_path / "out.pkl", check=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
        ("layer2.3.bn3.bias", "res3.3.conv3.norm.bias"),
        ("layer3.22.bn2.running_mean", "res4.22.conv2.norm.running_mean"),
        ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
        ("layer4.0.downsample.1.weight", "res5.0.shortcut.norm.weight"),
    ],
)
def test_detectron2_name(theirs: str, ours: str) -> None:
    assert convert.detectron2_name(theirs) == ours


def test_convert_file__legacy_torch_format(tmp_path: Path, resnet18: nn.Module) -> None:
    content = checkpoint_of(resnet18, "original")
    source = save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    convert.convert_file(source, tmp_path / "out.pkl", check=False)
    weight = read(tmp_path / "out.pkl")["model"]["stem.conv1.weight"]
    assert np.array_equal(weight, resnet18.conv1.weight.detach().numpy())


def test_convert_file__channels_last(tmp_path: Path) -> None:
    model = encoder("resnet18").to(memory_format=torch.channels_last)
    convert.convert_file(save(checkpoint_of(model, "ours"), tmp_path / "in.pth"), tmp_path / "out.pkl", check=False)
    weight = read(tmp_path / "out.pkl")["model"]["res2.0.conv1.weight"]
    assert weight.flags.c_contiguous
    assert np.array_equal(weight, model.layer1[0].conv1.weight.detach().numpy())


def test_convert_file__pretraining_checkpoint(tmp_path: Path) -> None:
    """What MoCo pre-training itself saves after a step, with batch norm in groups."""
    query = build_encoder("resnet18", "mlp", 16, partial(GroupedBatchNorm2d, num_groups=2))
    moco = MomentumContrast(query, BatchShuffle(0), queue_size=8, dim=16)
    moco({"query": torch.randn(4, 3, 32, 32), "key": torch.randn(4, 3, 32, 32)})["loss"].backward()
    source = save({"model": moco.state_dict(), "iteration": 0}, tmp_path / "model_0000000.pth")
    conversion = convert.convert_file(source, tmp_path / "out.pkl")
    assert conversion.encoder.kind == "MoCo query encoder, mocodet format"
    written = read(tmp_path / "out.pkl")["model"]["res5.1.conv2.norm.running_mean"]
    assert np.array_equal(written, query.layer4[1].bn2.running_mean.numpy())
    assert np.abs(written).sum() > 0


def test_convert_file__without_batch_counters(tmp_path: Path, resnet18: nn.Module) -> None:
    state = {k: v for k, v in resnet18.state_dict().items() if not k.endswith("num_batches_tracked")}
    convert.convert_file(save(state, tmp_path / "in.pth"), tmp_path / "out.pkl")
    assert len(read(tmp_path / "out.pkl")["model"]) == len(state) - 2  # fc.weight, fc.bias


@pytest.mark.parametrize("defect", ["incomplete", "nan"])
def test_convert_file__bad_encoder(tmp_path: Path, resnet18: nn.Module, defect: str) -> None:
    content = checkpoint_of(resnet18, "original")
    if defect == "nan":
        content["state_dict"]["module.encoder_q.conv1.weight"].view(-1)[-1:].fill_(float("nan"))
    else:
        del content["state_dict"]["module.encoder_q.conv1.weight"]
    source = save(content, tmp_path / "in.pth")
    with pytest.raises(ValueError, match=r"in\.pth: .*module\.encoder_q\.conv1\.weight") as caught:
        convert.convert_file(source, tmp_path / "out.pkl")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "pickle", "list"])
def test_convert_file__damaged(tmp_path: Path, resnet18: nn.Module, damage: str) -> None:
    source = save({"model": resnet18.state_dict()}, tmp_path / "in.pth")
    if damage == "truncated":
        source.write_bytes(source.read_bytes()[:-5000])
    elif damage == "list":
        save([1, 2], source)
    else:
        source.write_bytes(
            {"garbage": b"\x93NUMPY not a checkpoint", "empty": b"", "pickle": b"cos\nsystem\n."}[damage]
        )
    with pytest.raises(ValueError, match=r"in\.pth"):
        convert.convert_file(source, tmp_path / "out.pkl")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_convert_file__damaged_anywhere(tmp_path: Path, legacy: bool) -> None:
    """The error for a file damaged anywhere is a ValueError that names it; an intact one would give 'incomplete'."""
    source = tmp_path / "in.pth"
    state = OrderedDict({"encoder_q.conv1.weight": torch.ones(2, 3), "encoder_q.layer1.0.conv1.weight": torch.ones(2)})
    save({"model": state, "iteration": 3}, source, _use_new_zipfile_serialization=not legacy)
    whole = source.read_bytes()
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        if generator.random() < 0.3:
            del damaged[generator.randrange(len(damaged)) :]
        for _ in range(generator.choice([1, 5, 20]) if damaged else 0):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        source.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"in\.pth"):
            convert.convert_file(source, tmp_path / "out.pkl")
    assert list(tmp_path.iterdir()) == [source]


def test_convert_file__failure_keeps_existing_output(tmp_path: Path, resnet18: nn.Module) -> None:
    content = checkpoint_of(resnet18, "original")
    content["state_dict"]["module.encoder_q.conv1.weight"].fill_(float("nan"))
    output = tmp_path / "out.pkl"
    output.write_bytes(b"precious")
    with pytest.raises(ValueError, match="contains NaN or infinite values"):
        convert.convert_file(save(content, tmp_path / "in.pth"), output)
    assert output.read_bytes() == b"precious"


def test_convert_file__full_disk_keeps_existing_output(
    tmp_path: Path, resnet18: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    source, output = save(checkpoint_of(resnet18, "ours"), tmp_path / "in.pth"), tmp_path / "out.pkl"
    output.write_bytes(b"precious")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        convert.convert_file(source, output, check=False)
    assert output.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == [source, output]


def test_convert_file__output_must_be_pkl(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.pkl"):
        convert.convert_file(tmp_path / "in.pth", tmp_path / "out.pth")


def test_convert_file__missing_input(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"in\.pth"):
        convert.convert_file(tmp_path / "in.pth", tmp_path / "out.pkl")


def swap(first: str, second: str):
    right = convert.detectron2_name

    def wrong(name: str) -> str:
        found = right(name)
        return found.replace(first, second) if first in found else found.replace(second, first)

    return wrong


@pytest.mark.parametrize(
    ("first", "second"),
    [("res2.0.", "res2.1."), ("res5.1.conv1", "res5.1.conv2"), ("running_mean", "norm.bias")],
)
def test_verify__wrong_mapping(
    tmp_path: Path, resnet18: nn.Module, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    wrong = swap(first, second)
    if first == "running_mean":

        def wrong(name: str, right=convert.detectron2_name) -> str:
            swapped = {"running_mean": "bias", "bias": "running_mean"}
            stem, _, last = right(name).rpartition(".")
            return f"{stem}.{swapped.get(last, last)}"

    monkeypatch.setattr(convert, "detectron2_name", wrong)
    source = save(checkpoint_of(resnet18, "original"), tmp_path / "in.pth")
    with pytest.raises(ValueError, match=r"verification failed at .*res5"):
        convert.convert_file(source, tmp_path / "out.pkl")
    assert list(tmp_path.iterdir()) == [source]


def test_verify__swapped_stages(tmp_path: Path, resnet18: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "detectron2_name", swap("res3", "res4"))
    source = save(checkpoint_of(resnet18, "original"), tmp_path / "in.pth")
    with pytest.raises(ValueError, match="verification failed: detectron2 reports missing"):
        convert.convert_file(source, tmp_path / "out.pkl")
    assert list(tmp_path.iterdir()) == [source]


def test_verify__stride_in_the_1x1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.REQUIRED_CONFIG, "MODEL.RESNETS.STRIDE_IN_1X1", True)
    found = extract_encoder(encoder("resnet50").state_dict())
    # res2 has no stride, so it agrees with either setting.
    with pytest.raises(ValueError, match="verification failed at res3, res4, res5:"):
        convert.compare_stages(convert.detectron2_resnet(found, convert.to_detectron2(found)), found.build())


def test_verify__changed_file(resnet18: nn.Module) -> None:
    found = extract_encoder(resnet18.state_dict())
    content = convert.to_detectron2(found)
    content["model"]["res5.1.conv2.norm.bias"] = content["model"]["res5.1.conv2.norm.bias"] + 1
    with pytest.raises(ValueError, match="verification failed at res5:"):
        convert.compare_stages(convert.detectron2_resnet(found, deepcopy(content)), found.build())
    content["model"]["res5.1.conv2.norm.bias"][:] = np.nan
    with pytest.raises(ValueError, match="verification failed at res5:"):
        convert.compare_stages(convert.detectron2_resnet(found, deepcopy(content)), found.build())


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_verify__encoder_that_gives_all_images_the_same(tmp_path: Path, resnet18: nn.Module, value: float) -> None:
    """Every unit of the last block is constant: dead, or alive."""
    collapsed = deepcopy(resnet18)
    for norm in (collapsed.layer4[0].bn2, collapsed.layer4[0].downsample[1], collapsed.layer4[1].bn2):
        nn.init.zeros_(norm.weight)
        nn.init.constant_(norm.bias, value)
    source = save(checkpoint_of(collapsed, "original"), tmp_path / "in.pth")
    with pytest.raises(ValueError, match=r"the same features in res5 for all images. It has collapsed.* --no-verify"):
        convert.convert_file(source, tmp_path / "out.pkl")
    assert list(tmp_path.iterdir()) == [source]
    assert convert.convert_file(source, tmp_path / "out.pkl", check=False).differences == {}


def test_verify__encoder_trained_on_images_that_do_not_differ(tmp_path: Path) -> None:
    """Batch norm sees black images until its initial statistics have decayed; the last map is one cell."""
    network = encoder("resnet18").train()
    with torch.no_grad():
        for _ in range(120):
            network(torch.full((2, 3, 32, 32), -2.0))
    source = save(checkpoint_of(network, "original"), tmp_path / "in.pth")
    with pytest.raises(
        ValueError, match=r"in \d+ of 20 batch norms, layer4\.\S+, .* trained on images that do not differ"
    ):
        convert.convert_file(source, tmp_path / "out.pkl")


def test_converted_file__plain_detectron2_checkpointer(tmp_path: Path, resnet18: nn.Module) -> None:
    """The output can be read without mocodet."""
    convert.convert_file(save(resnet18.state_dict(), tmp_path / "in.pth"), tmp_path / "out.pkl", check=False)
    backbone = detectron2_resnet(18)
    DetectionCheckpointer(backbone).load(str(tmp_path / "out.pkl"))
    assert torch.equal(backbone.res5[1].conv2.norm.running_var, resnet18.layer4[1].bn2.running_var)
