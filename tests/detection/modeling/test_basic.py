"""Against torchvision's ResNet-18, whose weights the converter writes for detectron2."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_roi_heads
from torch import nn
from torchvision.models import resnet18

from mocodet.detection.weights.convert import PARTS
from tests.detection.tiny import empty_config

SMALL = {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64, "MODEL__RESNETS__NORM": "BN"}


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give torchvision's parameters detectron2's names."""
    named = {}
    for name, value in state.items():
        for here, there in PARTS:
            name = name.replace(here, there)
        named[name if name.startswith("res") else f"stem.{name}"] = value
    return {name: value for name, value in named.items() if not name.startswith("stem.fc")}


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    torch.manual_seed(0)
    model = resnet18().eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 2)
    return model


def test_res5__is_torchvisions_layer4(reference):
    cfg = empty_config(MODEL__ROI_HEADS__NAME="Res5ROIHeadsExtraNorm", **SMALL)
    heads = build_roi_heads(cfg, {"res4": ShapeSpec(channels=256, stride=16)}).eval()
    state = renamed({f"layer4.{name}": value for name, value in reference.layer4.state_dict().items()})
    left = heads.res5.load_state_dict(
        {name.removeprefix("res5."): value for name, value in state.items()}, strict=False
    )
    assert (left.unexpected_keys, {name.split(".")[0] for name in left.missing_keys}) == ([], {"norm"})
    x = torch.randn(2, 256, 6, 6)
    with torch.no_grad():
        assert torch.allclose(heads.res5[:-1](x), reference.layer4(x), atol=1e-5)
    assert heads.res5.norm.num_features == heads.box_predictor.cls_score.in_features == 512


def test_dilated_res5__is_torchvisions_layer4_at_every_cell(reference):
    """Dilated by hand: torchvision's convolutions and their weights, with stride 1, dilation 2 and padding 2."""
    backbone = build_backbone(
        empty_config(
            MODEL__BACKBONE__NAME="build_resnet_dilated_c5_backbone",
            MODEL__BACKBONE__FREEZE_AT=0,
            MODEL__RESNETS__OUT_FEATURES=["res5"],
            MODEL__RESNETS__RES5_DILATION=2,
            **SMALL,
        )
    ).eval()
    assert backbone.output_shape()["c5"].stride == 16
    left = backbone.bottom_up.load_state_dict(renamed(reference.state_dict()))
    assert (left.missing_keys, left.unexpected_keys) == ([], [])

    def conv(x: torch.Tensor, weight: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        size = weight.shape[-1]
        return norm(nn.functional.conv2d(x, weight, stride=1, dilation=2, padding=2 if size == 3 else 0))

    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = backbone.bottom_up(x)["res5"]
        y = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        y = reference.layer3(reference.layer2(reference.layer1(y)))
        for block in reference.layer4:
            shortcut = conv(y, block.downsample[0].weight, block.downsample[1]) if block.downsample else y
            inner = torch.relu(conv(y, block.conv1.weight, block.bn1))
            y = torch.relu(conv(inner, block.conv2.weight, block.bn2) + shortcut)
    assert found.shape == (1, 512, 4, 6)
    assert torch.allclose(found, y, atol=1e-4)
