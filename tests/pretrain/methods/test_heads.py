from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from mocodet.pretrain.methods.grouped_bn import GroupedBatchNorm2d
from mocodet.pretrain.methods.heads import build_encoder


@pytest.mark.parametrize(
    ("head", "layers"),
    [("fc", ["fc.bias", "fc.weight"]), ("mlp", ["fc.0.bias", "fc.0.weight", "fc.2.bias", "fc.2.weight"])],
)
def test_build_encoder__names_and_shapes_of_the_original_checkpoints(head, layers):
    encoder = build_encoder("resnet50", head, dim=128)
    state = encoder.state_dict()
    assert sorted(name for name in state if name.startswith("fc.")) == layers
    expected = torchvision.models.resnet50().state_dict()
    assert {name: tensor.shape for name, tensor in state.items() if not name.startswith("fc.")} == {
        name: tensor.shape for name, tensor in expected.items() if not name.startswith("fc.")
    }
    if head == "mlp":
        assert state["fc.0.weight"].shape == (2048, 2048)
        assert isinstance(encoder.fc[1], nn.ReLU)
    assert state[layers[-1]].shape == (128, 2048)


def test_build_encoder__forward():
    encoder = build_encoder("resnet18", "mlp", dim=7).eval()
    plain = torchvision.models.resnet18()
    plain.fc = encoder.fc
    plain.load_state_dict(encoder.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images), plain.eval()(images))


@pytest.mark.parametrize(
    ("arch", "head", "message"),
    [("vgg16", "fc", "unknown encoder 'vgg16'"), ("resnet18", "moco", "unknown projection head 'moco'")],
)
def test_build_encoder__unknown(arch, head, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(arch, head)


@pytest.mark.parametrize(
    ("arch", "features"), [("resnet34", 512), ("resnet50w2", 4096), ("resnet50w4", 8192), ("resnext50_32x8d", 2048)]
)
@pytest.mark.parametrize("small_stem", [False, True])
def test_build_encoder__head_fits_the_features(arch, features, small_stem):
    with torch.device("meta"):  # the widest has 375 million weights
        mlp = build_encoder(arch, "mlp", dim=16, small_stem=small_stem)
        linear = build_encoder(arch, "fc", dim=16, small_stem=small_stem)
        assert mlp(torch.empty(2, 3, 32, 32)).shape == (2, 16)
    assert [mlp.fc[i].weight.shape for i in (0, 2)] == [(features, features), (16, features)]
    assert linear.fc.weight.shape == (16, features)
    assert mlp.conv1.kernel_size == ((3, 3) if small_stem else (7, 7))


@pytest.mark.parametrize("arch", ["resnet50w2", "resnext50_32x8d"])
@pytest.mark.parametrize("small_stem", [False, True])
def test_build_encoder__grouped_norms_everywhere(arch, small_stem):
    with torch.device("meta"):
        encoder = build_encoder(arch, norm_layer=partial(GroupedBatchNorm2d, num_groups=4), small_stem=small_stem)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 1 + 3 * 16 + 4  # the stem's, three in each of 16 blocks, one in each layer's shortcut
    assert all(isinstance(norm, GroupedBatchNorm2d) and norm.num_groups == 4 for norm in norms)
