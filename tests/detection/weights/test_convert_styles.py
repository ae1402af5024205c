"""What other projects save, from the file to detectron2's activations, against torchvision's own forward."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from torch import nn

from mocodet.detection import add_moco_config
from mocodet.detection.training.checkpoint import MocoDetCheckpointer
from mocodet.detection.weights.convert import convert_file
from tests.commands import convert
from tests.encoders import FOREIGN, backbone, dino, encoder, numbered, simsiam

STAGES = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return encoder("resnet18")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(resnet18: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """torchvision's own forward, stage by stage."""
    found: dict[str, torch.Tensor] = {}
    for stage, layer in STAGES.items():
        getattr(resnet18, layer).register_forward_hook(
            lambda module, args, output, stage=stage: found.__setitem__(stage, output)
        )
    with torch.no_grad():
        resnet18.eval()(images)
    return {stage: features.clone() for stage, features in found.items()}


@pytest.fixture(scope="module")
def detectron2_resnet18() -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    return build_backbone(cfg).eval()


def assert_computes(path: Path, backbone: nn.Module, images: torch.Tensor, expected: dict[str, torch.Tensor]) -> None:
    """detectron2's ResNet computes from the file at ``path``, read by detectron2's checkpointer, what is expected."""
    for value in backbone.state_dict().values():
        value.fill_(-7)
    DetectionCheckpointer(backbone).load(str(path))
    with torch.no_grad():
        found = backbone(images)
    for stage, features in expected.items():
        assert features.std() > 0.1
        torch.testing.assert_close(found[stage], features, rtol=0, atol=1e-5 * features.abs().max().item())


@pytest.mark.parametrize("style", FOREIGN)
def test_convert_file__foreign(
    tmp_path: Path, resnet18: nn.Module, detectron2_resnet18: nn.Module, images: torch.Tensor, expected, style: str
) -> None:
    source, output = tmp_path / "in.bin", tmp_path / "out.pkl"
    torch.save(FOREIGN[style].make(resnet18), source)
    conversion = convert_file(source, output)
    assert (conversion.encoder.kind, conversion.encoder.arch) == (FOREIGN[style].kind, "resnet18")
    assert max(conversion.differences.values()) <= 1e-5
    assert_computes(output, detectron2_resnet18, images, expected)


@pytest.mark.parametrize("style", ["timm", "lightly"])
def test_convert_file__safetensors(
    tmp_path: Path, resnet18: nn.Module, detectron2_resnet18: nn.Module, images: torch.Tensor, expected, style: str
) -> None:
    """The format is told by the content: the name is that of a file of torch.save."""
    state = resnet18.state_dict() if style == "timm" else numbered(resnet18, "backbone.")
    source, output = tmp_path / "pytorch_model.pth", tmp_path / "out.pkl"
    safetensors.torch.save_file(state, source, metadata={"format": "pt"})
    convert_file(source, output)
    assert_computes(output, detectron2_resnet18, images, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_main__half(tmp_path: Path, resnet18: nn.Module, dtype: torch.dtype, capsys: pytest.CaptureFixture) -> None:
    state = {name: value.to(dtype) for name, value in backbone(resnet18).items()}
    torch.save(state, tmp_path / "in.pth")
    convert([str(tmp_path / "in.pth"), str(tmp_path / "out.pkl")])
    assert f"weights of type {dtype} are converted to torch.float32" in capsys.readouterr().out
    written = np.load(tmp_path / "out.pkl", allow_pickle=True)["model"]["stem.conv1.weight"]
    assert written.dtype == np.float32
    assert np.array_equal(written, resnet18.conv1.weight.detach().to(dtype).float().numpy())


def test_main__says_what_it_recognised_and_passed_over(
    tmp_path: Path, resnet18: nn.Module, capsys: pytest.CaptureFixture
) -> None:
    torch.save(dino(resnet18), tmp_path / "in.pth")
    convert([str(tmp_path / "in.pth"), str(tmp_path / "out.pkl"), "--no-verify"])
    printed = capsys.readouterr().out
    assert "in.pth: resnet18, DINO teacher (epoch 800), names 'teacher.module.backbone.*'\n" in printed
    assert (
        "\n  passed over: 'student.module.backbone.' (use the converter's --prefix to select it instead)\n" in printed
    )
    convert([str(tmp_path / "in.pth"), str(tmp_path / "out.pkl"), "--no-verify", "--prefix", "student.module.backbone"])
    assert "encoder named by prefix (epoch 800), names 'student.module.backbone.*'\n" in capsys.readouterr().out


def test_load__foreign_unconverted(tmp_path: Path, resnet18: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    """MODEL.WEIGHTS takes what the converter takes."""
    cfg = get_cfg()
    add_moco_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RPN.IN_FEATURES = ["res5"]
    model = build_model(cfg)
    torch.save(dino(resnet18), tmp_path / "dino.pth")
    with caplog.at_level("INFO"):
        MocoDetCheckpointer(model).load(str(tmp_path / "dino.pth"))
    assert torch.equal(model.backbone.res5[1].conv2.weight, resnet18.layer4[1].conv2.weight)
    assert "Converting the DINO teacher (resnet18)" in caplog.text
    assert "passed over: 'student.module.backbone.'" in caplog.text


class OwnDetector(nn.Module):
    """A user's detector around torchvision's network, whose parameters are named like an encoder's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network
        self.head = nn.Linear(2, 2)


def test_load__a_detector_in_an_encoders_names(tmp_path: Path, resnet18: nn.Module) -> None:
    """A run that goes on reads its own checkpoint as it is."""
    source = OwnDetector(encoder("resnet18"))
    torch.save({"model": source.state_dict(), "iteration": 3}, tmp_path / "model_0000002.pth")
    target = OwnDetector(encoder("resnet18"))
    for value in target.state_dict().values():
        value.zero_()
    rest = MocoDetCheckpointer(target).load(str(tmp_path / "model_0000002.pth"))
    assert rest["iteration"] == 3
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_convert_file__old_and_new_torch_format_agree(tmp_path: Path, resnet18: nn.Module) -> None:
    content = simsiam(resnet18)
    for name, is_zip in (("old", False), ("new", True)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=is_zip)
        convert_file(tmp_path / name, tmp_path / f"{name}.pkl", check=False)
    assert (tmp_path / "old.pkl").read_bytes() == (tmp_path / "new.pkl").read_bytes()
    assert [(tmp_path / name).read_bytes()[:2] == b"PK" for name in ("old", "new")] == [False, True]
