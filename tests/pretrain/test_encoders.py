import pytest
import torch
import torchvision
from torch import nn

from mocodet.pretrain.encoders import build_encoder


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
