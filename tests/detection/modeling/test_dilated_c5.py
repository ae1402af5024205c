import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn

from mocodet.detection.modeling.dilated_c5 import DilatedC5
from tests.detection.tiny import empty_config


def build(**keys: object) -> DilatedC5:
    return build_backbone(
        empty_config(
            MODEL__BACKBONE__NAME="build_resnet_dilated_c5_backbone",
            MODEL__BACKBONE__FREEZE_AT=0,
            MODEL__RESNETS__NORM="BN",
            **{"MODEL__RESNETS__OUT_FEATURES": ["res5"], "MODEL__RESNETS__RES5_DILATION": 2, **keys},
        )
    )


@pytest.fixture(scope="module")
def backbone() -> DilatedC5:
    return build().eval()


def test_dilated_c5__shape_and_stride(backbone):
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
    assert {name: tuple(f.shape) for name, f in features.items()} == {"c5": (1, 512, 4, 6)}
    assert backbone.output_shape()["c5"].stride == 16
    assert backbone.output_shape()["c5"].channels == 512


def test_dilated_c5__res5_is_dilated(backbone):
    convs = [block.conv2 for block in backbone.bottom_up.res5]
    assert [(c.kernel_size, c.stride, c.dilation) for c in convs] == [((3, 3), (1, 1), (2, 2))] * 3


def test_dilated_c5__added_parameters(backbone):
    added = {n: tuple(p.shape) for n, p in backbone.named_parameters() if not n.startswith("bottom_up.")}
    assert added == {"conv.weight": (512, 2048, 3, 3), "conv.norm.weight": (512,), "conv.norm.bias": (512,)}
    assert all(p.requires_grad for p in backbone.parameters())


def test_dilated_c5__is_resnet_then_conv_norm_relu(backbone):
    x = torch.randn(1, 3, 32, 32)
    conv = nn.Conv2d(2048, 512, 3, padding=1, bias=False)
    conv.weight = backbone.conv.weight
    with torch.no_grad():
        expected = torch.relu(backbone.conv.norm(conv(backbone.bottom_up(x)["res5"])))
        assert torch.allclose(backbone(x)["c5"], expected, atol=1e-6)


def test_build__channels_from_config():
    small = {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64, "MODEL__RESNETS__RES5_DILATION": 1}
    assert build(MODEL__DILATED_C5__OUT_CHANNELS=24, **small).output_shape()["c5"].channels == 24


def test_build__without_res5():
    with pytest.raises(ValueError, match=r"requires res5.*\['res4'\]"):
        build(MODEL__RESNETS__OUT_FEATURES=["res4"])
