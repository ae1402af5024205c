import logging

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from mocodet.detection.modeling.roi_heads import Res5ROIHeadsExtraNorm
from tests.detection.tiny import empty_config


def build(name: str = "Res5ROIHeadsExtraNorm", norm: str = "BN", **keys: object) -> nn.Module:
    cfg = empty_config(MODEL__ROI_HEADS__NAME=name, MODEL__RESNETS__NORM=norm, **keys)
    return build_roi_heads(cfg, {"res4": ShapeSpec(channels=1024, stride=16)})


def test_res5_roi_heads_extra_norm__is_res5_heads_with_one_norm_more():
    ours, plain = build().state_dict(), build("Res5ROIHeads").state_dict()
    extra = {name: tuple(value.shape) for name, value in ours.items() if name not in plain}
    assert extra == {
        "res5.norm.weight": (2048,),
        "res5.norm.bias": (2048,),
        "res5.norm.running_mean": (2048,),
        "res5.norm.running_var": (2048,),
        "res5.norm.num_batches_tracked": (),
    }
    assert plain.keys() <= ours.keys()


def test_res5_roi_heads_extra_norm__norm_comes_last():
    heads = build().eval()
    heads.res5.norm.running_mean.fill_(0.25)
    heads.res5.norm.running_var.fill_(4.0)
    x = torch.randn(2, 1024, 4, 4)
    with torch.no_grad():
        blocks = nn.Sequential(*list(heads.res5)[:-1])(x)
        assert blocks.shape == (2, 2048, 2, 2)
        expected = (blocks - 0.25) / (4.0 + heads.res5.norm.eps) ** 0.5
        assert torch.allclose(heads.res5(x), expected, atol=1e-6)


@pytest.mark.parametrize(("norm", "kind"), [("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm)])
def test_res5_roi_heads_extra_norm__kind_follows_the_backbone(norm, kind):
    assert type(build(norm=norm).res5.norm) is kind


def test_res5_roi_heads_extra_norm__builds_without_the_shim_for_old_moco_code(caplog):
    with caplog.at_level(logging.WARNING):
        build()
    assert not caplog.records
    assert isinstance(vars(Res5ROIHeadsExtraNorm)["_build_res5_block"], classmethod)
    assert isinstance(vars(Res5ROIHeads)["_build_res5_block"], classmethod)


def test_res5_roi_heads_extra_norm__no_norm():
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.NORM is ''"):
        build(norm="")


def test_res5_roi_heads_extra_norm__mask_head_shares_the_normed_features():
    heads = build(MODEL__MASK_ON=True, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead")
    assert heads.mask_head.deconv.in_channels == 2048
