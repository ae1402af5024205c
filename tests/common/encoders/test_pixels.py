"""Encoders for grey images: their output on RGB images, against the output on grey images."""

import torch

from mocodet.common.encoders.pixels import GREY_MEAN, GREY_STD, RGB_MEAN, RGB_STD
from mocodet.common.encoders.reading import read_encoder
from tests.encoders import checkpoint_of, encoder


def test_for_rgb__computes_the_same(tmp_path) -> None:
    grey_network = encoder("resnet18", channels=1).eval()
    torch.save(checkpoint_of(grey_network, "original"), tmp_path / "grey.pth")
    found = read_encoder(tmp_path / "grey.pth")
    assert "takes greyscale images" in found.notes[-1]

    pixels = 255 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    red, green, blue = pixels.unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)
    grey_network.fc = torch.nn.Identity()
    rgb = (pixels - torch.tensor(RGB_MEAN).view(3, 1, 1)) / torch.tensor(RGB_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = grey_network((grey - GREY_MEAN[0]) / GREY_STD[0])
        torch.testing.assert_close(found.build()(rgb), expected, rtol=1e-4, atol=1e-4)
