"""From detectors to torchvision: equal activations, and refusal where torchvision's network computes something else."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from mocodet.common.encoders.reading import extract_encoder
from mocodet.detection.weights import convert_back
from mocodet.detection.weights.convert import convert_file, detectron2_name, torchvision_name
from mocodet.detection.weights.convert_back import convert_back_file
from tests.commands import convert
from tests.detection.tiny import resnet_config
from tests.encoders import checkpoint_of, encoder

STAGES = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


def config(depth: int, kind: str, norm: str) -> CfgNode:
    cfg = resnet_config(depth, norm)
    if kind == "c4":
        cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeadsExtraNorm"
        return cfg
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    if kind == "fpn":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
        cfg.MODEL.FPN.IN_FEATURES = list(STAGES)
        cfg.MODEL.FPN.OUT_CHANNELS = 16
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    else:
        cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
        cfg.MODEL.RPN.IN_FEATURES = ["res5"]
    return cfg


def trained(cfg: CfgNode) -> nn.Module:
    """A detector whose norms are far from their initial values, statistics included."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "norm.bias")):
            value.normal_()
        elif name.endswith(("running_var", "norm.weight")):
            value.uniform_(0.5, 1.5)
    return model


def stages_of(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The activations of the detector's ResNet, with its own modules; res5 of a C4 model is in its head."""
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    with torch.no_grad():
        features = bottom_up.stem(images)
        found = {}
        for stage in STAGES:
            module = getattr(bottom_up, stage, None) or model.roi_heads.res5[:3]  # without the extra norm
            features = module(features)
            found[stage] = features
    return found


def torchvision_stages(depth: int, path: Path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """torchvision's own network with the file, loaded strictly."""
    network = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(torch.load(path, weights_only=True))
    found: dict[str, torch.Tensor] = {}
    for stage, layer in STAGES.items():
        getattr(network, layer).register_forward_hook(
            lambda module, args, output, stage=stage: found.__setitem__(stage, output)
        )
    with torch.no_grad():
        network.eval()(images)
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() == STAGES.keys()
    for stage, features in expected.items():
        assert features.std() > 0.01
        torch.testing.assert_close(found[stage], features, rtol=0, atol=1e-5 * features.abs().max().item())


@pytest.fixture(scope="module")
def fpn18() -> nn.Module:
    return trained(config(18, "fpn", "BN"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def save(model: nn.Module, path: Path, **more: object) -> Path:
    """A checkpoint as detectron2's trainer writes it."""
    torch.save({"model": model.state_dict(), "optimizer": {}, "iteration": 9, **more}, path)
    return path


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
@pytest.mark.parametrize("kind", ["fpn", "plain"])
def test_convert_back_file__activations(tmp_path: Path, images: torch.Tensor, kind: str, norm: str) -> None:
    # SyncBN is BN in other names; a detector that has it cannot run on a CPU.
    model = trained(config(18, kind, "BN" if norm == "SyncBN" else norm))
    source = save(model, tmp_path / "model_final.pth")
    if norm == "SyncBN":
        assert model.state_dict().keys() == build_model(config(18, kind, norm)).state_dict().keys()
    conversion = convert_back_file(source, tmp_path / "resnet.pth")
    assert conversion.encoder.prefix == {"fpn": "backbone.bottom_up.", "plain": "backbone."}[kind]
    assert conversion.encoder.arch == "resnet18"
    assert max(conversion.differences.values()) <= 1e-5
    assert conversion.encoder.notes == ()  # two 3x3 convolutions: the stride has only one place
    assert_same(torchvision_stages(18, tmp_path / "resnet.pth", images), stages_of(model, images))
    # Weights only: nothing of the training.
    assert all(isinstance(value, torch.Tensor) for value in torch.load(tmp_path / "resnet.pth").values())


def test_convert_back_file__c4(tmp_path: Path, images: torch.Tensor) -> None:
    """res5 is in the head; the head's extra norm, which torchvision lacks, is left out."""
    model = trained(config(50, "c4", "BN"))
    source = save(model, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text("MODEL: {RESNETS: {STRIDE_IN_1X1: false}, OWN: {KEY: 1}}\n")
    conversion = convert_back_file(source, tmp_path / "resnet.pth")
    assert (conversion.encoder.prefix, conversion.encoder.arch) == ("backbone.", "resnet50")
    assert conversion.encoder.notes[0].startswith("the detector's input: BGR images from 0 to 255, minus [103.53, ")
    assert_same(torchvision_stages(50, tmp_path / "resnet.pth", images), stages_of(model, images))

    # If the stride is known to be in another place, torchvision's network would compute something else.
    (tmp_path / "base.yaml").write_text("MODEL: {RESNETS: {STRIDE_IN_1X1: true}}\n")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\nMODEL: {RESNETS: {DEPTH: 50}}\n")
    (tmp_path / "resnet.pth").unlink()
    for given in (None, tmp_path / "base.yaml"):
        with pytest.raises(
            ValueError, match=r"model_final\.pth: .*STRIDE_IN_1X1 True in .*\.yaml.* different results"
        ) as e:
            convert_back_file(source, tmp_path / "resnet.pth", config_file=given)
        assert "\n" not in str(e.value)
    assert not (tmp_path / "resnet.pth").exists()


def test_convert_back_file__pickle_of_the_zoo(tmp_path: Path, fpn18: nn.Module, images: torch.Tensor) -> None:
    arrays = {name: value.numpy() for name, value in fpn18.state_dict().items()}
    source = tmp_path / "model_final_280758.pkl"
    source.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    convert_back_file(source, tmp_path / "resnet.pth")
    assert_same(torchvision_stages(18, tmp_path / "resnet.pth", images), stages_of(fpn18, images))


@pytest.mark.parametrize("author", ["Detectron2 Model Zoo", "me", None])
def test_convert_back_file__stride_that_nothing_tells(tmp_path: Path, images: torch.Tensor, author: str | None) -> None:
    """detectron2's default has the stride in the 1x1: the tensors fit torchvision's network, which differs."""
    cfg = config(50, "plain", "FrozenBN")
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = get_cfg().MODEL.RESNETS.STRIDE_IN_1X1
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1
    model = trained(cfg)
    if author is None:
        source = save(model, tmp_path / "model.pth")
    else:
        source = tmp_path / "model.pkl"
        arrays = {name: value.numpy() for name, value in model.state_dict().items()}
        source.write_bytes(pickle.dumps({"model": arrays, "__author__": author}))
    with pytest.raises(ValueError, match=rf"^{source}: the tensors do not show .* config with --config-file$"):
        convert_back_file(source, tmp_path / "resnet.pth")
    assert not (tmp_path / "resnet.pth").exists()
    (tmp_path / "own.yaml").write_text("MODEL: {RESNETS: {STRIDE_IN_1X1: false}}\n")
    convert_back_file(source, tmp_path / "resnet.pth", config_file=tmp_path / "own.yaml", check=False)
    found = torchvision_stages(50, tmp_path / "resnet.pth", images)["res5"]
    assert not torch.allclose(found, stages_of(model, images)["res5"], rtol=0.1)


@pytest.mark.parametrize("layout", ["original", "ours", "supervised"])
def test_convert_back_file__pre_training(tmp_path: Path, layout: str) -> None:
    torch.save(checkpoint_of(encoder("resnet18"), layout), tmp_path / "in.pth")
    with pytest.raises(ValueError, match=r"in\.pth: already contains a ResNet under torchvision's names, .* detectors"):
        convert_back_file(tmp_path / "in.pth", tmp_path / "out.pth")


def test_convert_back_file__says_what_it_found(tmp_path: Path) -> None:
    torch.save({"state_dict": {"cls_token": torch.ones(1)}, "epoch": 3}, tmp_path / "in.pth")
    with pytest.raises(ValueError, match=r"none of its 0 tensors are named .*; its keys are 'state_dict', 'epoch'$"):
        convert_back_file(tmp_path / "in.pth", tmp_path / "out.pth")


def test_convert_back_file__undoes_convert_file(tmp_path: Path) -> None:
    model = encoder("resnet50")
    torch.save(model.state_dict(), tmp_path / "in.pth")
    convert_file(tmp_path / "in.pth", tmp_path / "converted.pkl", check=False)
    conversion = convert_back_file(tmp_path / "converted.pkl", tmp_path / "back.pth", check=False)
    assert conversion.encoder.notes == ()  # the author says that it is torchvision's network
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    expected = {n: v for n, v in model.state_dict().items() if "num_batches" not in n and not n.startswith("fc.")}
    assert back.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in back.items())
    assert extract_encoder(back).arch == "resnet50"


def test_torchvision_name__undoes_detectron2_name() -> None:
    with torch.device("meta"):
        networks = [torchvision.models.resnet18(), torchvision.models.resnet50()]
    for network in networks:
        network.fc = nn.Identity()
        assert all(torchvision_name(detectron2_name(name)) == name for name in network.state_dict())


def drop(part: str) -> Callable[[dict], None]:
    def damage(state: dict) -> None:
        for name in [name for name in state if part in name]:
            del state[name]

    return damage


def double(state: dict) -> None:
    state.update({name.replace("backbone.bottom_up.", "teacher."): value for name, value in list(state.items())})


def nan(state: dict) -> None:
    state["backbone.bottom_up.res4.0.conv1.weight"][:] = np.nan


DEFECTS = {
    "no resnet": (drop("bottom_up"), r"contains no detectron2 ResNet: .*'backbone\.stem\.\*'.*begin with backbone\."),
    "no stem": (drop("stem"), r"contains no detectron2 ResNet"),
    "no stage": (drop("res3"), r"has \(2, 0, 2, 2\) basic blocks"),
    "no statistics": (drop("running_var"), r"incomplete for a resnet18: missing bn1\.running_var"),
    "two": (double, r"contains 2 ResNets, at 'backbone\.bottom_up\.', 'teacher\.'; select one with --prefix"),
    "nan": (nan, r"layer3\.0\.conv1\.weight contains NaN"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_convert_back_file__defects(tmp_path: Path, fpn18: nn.Module, defect: str) -> None:
    damage, message = DEFECTS[defect]
    state = {name: value.clone() for name, value in fpn18.state_dict().items()}
    damage(state)
    source = tmp_path / "model.pth"
    torch.save({"model": state}, source)
    with pytest.raises(ValueError, match=rf"^{source}: .*{message}") as caught:
        convert_back_file(source, tmp_path / "resnet.pth")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]
    if defect == "two":
        assert (
            convert_back_file(source, tmp_path / "resnet.pth", prefix="teacher", check=False).encoder.prefix
            == "teacher."
        )


@pytest.mark.parametrize("name", ["running", "shift"])
def test_convert_back_file__verification(
    tmp_path: Path, fpn18: nn.Module, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A wrong translation is detected, and no file is written."""
    right = torchvision_name
    if name == "running":

        def wrong(name: str) -> str:
            swapped = {"running_mean": "bias", "bias": "running_mean"}
            stem, _, last = right(name).rpartition(".")
            return f"{stem}.{swapped.get(last, last)}"
    else:

        def wrong(name: str) -> str:
            return (
                right(name).replace("layer1.0.", "layer1.9.").replace("layer1.1.", "layer1.0.").replace("1.9.", "1.1.")
            )

    monkeypatch.setattr(convert_back, "torchvision_name", wrong)
    source = save(fpn18, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"verification failed at res2"):
        convert_back_file(source, tmp_path / "resnet.pth")
    assert list(tmp_path.iterdir()) == [source]


def test_convert_back_file__refuses_names(tmp_path: Path, fpn18: nn.Module) -> None:
    source = save(fpn18, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"out\.pkl: detectron2 treats any \.pkl as its own"):
        convert_back_file(source, tmp_path / "out.pkl")
    with pytest.raises(ValueError, match=r"model\.pth is the detector itself"):
        convert_back_file(source, tmp_path / "model.pth")
    with pytest.raises(
        FileNotFoundError, match=r"the config file .*absent\.yaml does not exist; specify the detector's"
    ):
        convert_back_file(source, tmp_path / "out.pth", config_file=tmp_path / "absent.yaml")
    for content in ("MODEL: [", "- 1\n", "MODEL: {RESNETS: {DEPTH: [1]}}\n"):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"bad\.yaml") as caught:
            convert_back_file(source, tmp_path / "out.pth", config_file=tmp_path / "bad.yaml")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.pth").exists()


def test_main__to_torchvision(tmp_path: Path, fpn18: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = save(fpn18, tmp_path / "model.pth"), tmp_path / "resnet.pth"
    convert(["--to", "torchvision", str(source), str(output)])
    printed = capsys.readouterr().out
    assert f"{source}: resnet18, encoder of a detectron2 model, names 'backbone.bottom_up.*'\n" in printed
    assert f"written to {output}: 100 tensors under torchvision's names, without fc\n" in printed
    for stage in STAGES:
        assert f"\n  {stage}  " in printed
    with pytest.raises(SystemExit) as caught:
        convert([str(source), str(output), "--config-file", "x.yaml"])
    assert caught.value.code == 2
    assert "can only be used with --to torchvision" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"^error: .*absent\.pth"):
        convert(["--to", "torchvision", str(tmp_path / "absent.pth"), str(output)])
