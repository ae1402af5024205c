"""Conversion against detectron2's and torchvision's own modules, paired by structure and not by name."""

import os
import pickle
import random
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from mocodet.detection import convert
from mocodet.pretrain.contrast.moco import MomentumContrast
from mocodet.pretrain.encoders import build_encoder
from mocodet.pretrain.shuffle_bn import BatchShuffle, GroupedBatchNorm2d


def encoder(depth: int, head: str = "v1") -> nn.Module:
    """A torchvision ResNet whose batch norms, statistics included, are far from their initial values."""
    torch.manual_seed(depth)
    model = getattr(torchvision.models, f"resnet{depth}")(num_classes=16)
    if head == "v2":
        width = model.fc.in_features
        model.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.num_batches_tracked.fill_(7)
    return model


def moco_state(model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    state = {f"{prefix}encoder_q.{name}": value.clone() for name, value in model.state_dict().items()}
    # The key encoder differs from the query encoder everywhere, so that taking the wrong one shows.
    state.update({f"{prefix}encoder_k.{name}": value + 1 for name, value in model.state_dict().items()})
    return {**state, f"{prefix}queue": torch.randn(16, 32), f"{prefix}queue_ptr": torch.zeros(1, dtype=torch.long)}


def checkpoint_of(model: nn.Module, layout: str) -> dict:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9).state_dict()
    if layout == "original":
        return {
            "epoch": 200,
            "arch": "resnet",
            "state_dict": moco_state(model, "module."),
            "optimizer": optimizer,
        }
    return {"model": moco_state(model, ""), "optimizer": optimizer, "scheduler": {"last_epoch": 3}, "iteration": 41}


def detectron2_resnet(depth: int, stride_in_1x1: bool = False) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = stride_in_1x1
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_backbone(cfg)


def paired_modules(detectron2: nn.Module, torchvision_model: nn.Module):
    """Pair the modules of the two libraries by where they stand in the network."""
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
    return encoder(18)


@pytest.mark.parametrize(
    ("depth", "head", "layout"),
    [(18, "v1", "original"), (18, "v2", "original"), (18, "v2", "ours"), (50, "v1", "original"), (50, "v2", "ours")],
)
def test_convert_file__names_and_values(tmp_path: Path, depth: int, head: str, layout: str) -> None:
    model = encoder(depth, head)
    output = tmp_path / "out.pkl"
    conversion = convert.convert_file(save(checkpoint_of(model, layout), tmp_path / "in.pth"), output)
    content = read(output)
    assert content["__author__"] == "mocodet"
    assert content["matching_heuristics"] is True

    backbone = detectron2_resnet(depth)
    expected_names = {name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(content["model"]) == expected_names == set(conversion.names)

    # Values by a path of their own: a plain load_state_dict, then module by module against the source.
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


@pytest.mark.parametrize("depth", [34, 101, 152])
def test_extract_encoder__other_depths(depth: int) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    state = {name: torch.ones(value.shape, dtype=value.dtype) for name, value in state.items()}
    found = convert.extract_encoder(state)
    assert found.depth == depth
    backbone_names = {name for name in detectron2_resnet(depth).state_dict() if "num_batches" not in name}
    assert set(convert.to_detectron2(found)["model"]) == backbone_names


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


def test_extract_encoder__reports_what_it_found(resnet18: nn.Module) -> None:
    found = convert.extract_encoder(checkpoint_of(resnet18, "original"))
    total = 2 * len(resnet18.state_dict()) + 2
    assert found.prefix == "module.encoder_q."
    assert found.kind == "MoCo query encoder, original format"
    assert found.progress == "arch resnet, epoch 200"
    assert len(found.tensors) + sum(found.left_out.values()) == total
    ours = convert.extract_encoder(checkpoint_of(resnet18, "ours"))
    assert (ours.prefix, ours.progress) == ("encoder_q.", "iteration 41")
    bare = convert.extract_encoder(resnet18.state_dict())
    assert (bare.prefix, bare.kind) == ("", "torchvision ResNet, bare state dict")


@pytest.mark.parametrize("prefix", ["module.encoder_k.", "module.encoder_k", "encoder_k."])
def test_extract_encoder__prefix(resnet18: nn.Module, prefix: str) -> None:
    found = convert.extract_encoder(checkpoint_of(resnet18, "original"), prefix)
    assert found.prefix == "module.encoder_k."
    assert torch.equal(found.tensors["conv1.weight"], resnet18.conv1.weight + 1)


def test_convert_file__legacy_torch_format(tmp_path: Path, resnet18: nn.Module) -> None:
    content = checkpoint_of(resnet18, "original")
    source = save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    convert.convert_file(source, tmp_path / "out.pkl", check=False)
    weight = read(tmp_path / "out.pkl")["model"]["stem.conv1.weight"]
    assert np.array_equal(weight, resnet18.conv1.weight.detach().numpy())


def test_convert_file__channels_last(tmp_path: Path) -> None:
    model = encoder(18).to(memory_format=torch.channels_last)
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
    conversion = convert.convert_file(save(state, tmp_path / "in.pth"), tmp_path / "out.pkl")
    assert len(conversion.names) == len(state) - 2  # fc.weight, fc.bias


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


DEFECTS = {
    "no encoder": (drop_encoder, r"holds no encoder: 124 tensors.*encoder_q.*--prefix"),
    "missing tensor": (drop("layer2.0.bn1.running_mean"), r"missing module\.encoder_q\.layer2\.0\.bn1\.running_mean"),
    "missing stem": (drop("conv1.weight"), r"missing module\.encoder_q\.conv1\.weight"),
    "missing block": (drop_block, r"has \(2, 2, 1, 2\) basic blocks"),
    "unknown tensor": (put("layer1.0.se.weight", torch.ones(2)), r"has not: module\.encoder_q\.layer1\.0\.se\.weight"),
    "wrong shape": (put("conv1.weight", torch.ones(64, 3, 3, 3)), r"conv1\.weight has shape \(64, 3, 3, 3\).*7, 7\)"),
    "wrong type": (put("conv1.weight", torch.ones(64, 3, 7, 7).half()), r"torch\.float16.*expected.*torch\.float32"),
    "no tensor": (put("bn1.bias", [1.0]), r"bn1\.bias is a list"),
    "nan": (poison("layer4.1.conv2.weight", float("nan")), r"layer4\.1\.conv2\.weight holds nan or inf"),
    "inf": (poison("bn1.running_mean", float("inf")), r"bn1\.running_mean holds nan or inf"),
    "negative variance": (poison("bn1.running_var", -1.0), r"bn1\.running_var holds negative variances"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_convert_file__defects(tmp_path: Path, resnet18: nn.Module, defect: str) -> None:
    damage, message = DEFECTS[defect]
    content = checkpoint_of(resnet18, "original")
    damage(content["state_dict"])
    source = save(content, tmp_path / "in.pth")
    with pytest.raises(ValueError, match=message) as caught:
        convert.convert_file(source, tmp_path / "out.pkl")
    assert str(source) in str(caught.value)
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
    """Wherever a file is broken the error is a ValueError that names it; a whole one would say 'incomplete'."""
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
    poison("conv1.weight", float("nan"))(content["state_dict"])
    output = tmp_path / "out.pkl"
    output.write_bytes(b"precious")
    with pytest.raises(ValueError, match="nan"):
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


def test_verify__stride_in_the_1x1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(convert.REQUIRED_CONFIG, "MODEL.RESNETS.STRIDE_IN_1X1", True)
    found = convert.extract_encoder(encoder(50).state_dict())
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(convert.to_detectron2(found)))
    # res2 has no stride, so it agrees whatever the setting is.
    with pytest.raises(ValueError, match="verification failed at res3, res4, res5:"):
        convert.verify(found, path)


def test_verify__changed_file(tmp_path: Path, resnet18: nn.Module) -> None:
    found = convert.extract_encoder(resnet18.state_dict())
    content = convert.to_detectron2(found)
    content["model"]["res5.1.conv2.norm.bias"] = content["model"]["res5.1.conv2.norm.bias"] + 1
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="verification failed at res5:"):
        convert.verify(found, path)
    content["model"]["res5.1.conv2.norm.bias"][:] = np.nan
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="verification failed at res5:"):
        convert.verify(found, path)


def test_converted_file__plain_detectron2_checkpointer(tmp_path: Path, resnet18: nn.Module) -> None:
    """What is written needs nothing of mocodet to be read."""
    convert.convert_file(save(resnet18.state_dict(), tmp_path / "in.pth"), tmp_path / "out.pkl", check=False)
    backbone = detectron2_resnet(18)
    DetectionCheckpointer(backbone).load(str(tmp_path / "out.pkl"))
    assert torch.equal(backbone.res5[1].conv2.norm.running_var, resnet18.layer4[1].bn2.running_var)


def test_holds_encoder(resnet18: nn.Module) -> None:
    assert convert.holds_encoder(checkpoint_of(resnet18, "original"))
    assert convert.holds_encoder(checkpoint_of(resnet18, "ours"))
    assert convert.holds_encoder(resnet18.state_dict())
    backbone = detectron2_resnet(18).state_dict()
    assert not convert.holds_encoder({"model": {f"backbone.bottom_up.{k}": v for k, v in backbone.items()}})
    assert not convert.holds_encoder({"model": backbone, "iteration": 3})
    assert not convert.holds_encoder([resnet18.state_dict()])
    assert not convert.holds_encoder({0: torch.ones(1), "model": {1: torch.ones(1)}})
