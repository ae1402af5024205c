"""Differences of OpenCV's operations, and the device's, from Pillow's with equal parameters."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import functional as TF

from mocodet.pretrain.data.augment import STEPS, batched
from mocodet.pretrain.data.augment.opencv import (
    OPERATIONS,
    DeviceViews,
    OpenCVViews,
    apply_steps,
    encode_steps,
    resize,
)
from mocodet.pretrain.data.augment.parameters import Operation, draw_view
from mocodet.pretrain.data.augment.recipes import RECIPES

# Bounds in grey levels for the mean over an image and for the worst pixel, for OpenCV and for the device.
BOUNDS = {
    Operation.BRIGHTNESS: ((0.2, 1), (0.5, 1)),
    Operation.CONTRAST: ((0.2, 1), (0.5, 1)),
    Operation.SATURATION: ((0.2, 1), (0.5, 1)),
    Operation.HUE: ((1.5, 14), (1.5, 14)),
    Operation.GREY: ((0.1, 1), (0.5, 1)),
    Operation.BLUR: ((0.8, 4), (0.8, 4)),
    Operation.FLIP: ((0, 0), (0, 0)),
}
AMOUNTS = {
    Operation.BRIGHTNESS: (0.6, 0.87, 1.003, 1.4),
    Operation.CONTRAST: (0.6, 0.87, 1.003, 1.4),
    Operation.SATURATION: (0.6, 0.87, 1.003, 1.4),
    Operation.HUE: (-0.4, -0.1, 0.013, 0.1, 0.4),
    Operation.GREY: (0.0,),
    Operation.BLUR: (0.1, 0.5, 1.0, 2.0),
    Operation.FLIP: (0.0,),
}
PILLOW = {
    Operation.BRIGHTNESS: TF.adjust_brightness,
    Operation.CONTRAST: TF.adjust_contrast,
    Operation.SATURATION: TF.adjust_saturation,
    Operation.HUE: TF.adjust_hue,
    Operation.GREY: lambda image, _: TF.rgb_to_grayscale(image, 3),
    Operation.BLUR: lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
    Operation.FLIP: lambda image, _: TF.hflip(image),
}


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return an image of coloured areas with soft borders, dark and overexposed parts, and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    values = 1.4 * np.asarray(coarse, dtype=float) - 40 + rng.normal(0, 6, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("operation", BOUNDS)
def test_operations__are_pillows_within_bounds(operation):
    image = photograph(96, 96)
    for amount in AMOUNTS[operation]:
        reference = np.asarray(PILLOW[operation](Image.fromarray(image), amount), dtype=float)
        steps = encode_steps([(operation, amount)])[None]
        device = batched.apply_steps(torch.from_numpy(image).permute(2, 0, 1)[None].float(), steps)[0]
        found = OPERATIONS[operation](image, amount), device.permute(1, 2, 0).numpy()
        for values, (mean, worst) in zip(found, BOUNDS[operation], strict=True):
            error = np.abs(values - reference)
            assert error.mean() <= mean, (amount, error.mean())
            assert error.max() <= worst, (amount, error.max())
        assert found[0].dtype == np.uint8


@pytest.mark.parametrize("operation", [o for o in BOUNDS if o != Operation.FLIP])
def test_operations__do_something_else_than_with_another_amount(operation):
    image = photograph(96, 96)
    other = {Operation.GREY: image}.get(operation)
    if other is None:
        other = OPERATIONS[operation](image, AMOUNTS[operation][0])
    error = np.abs(OPERATIONS[operation](image, AMOUNTS[operation][-1]).astype(float) - other)
    assert error.mean() > 2 * BOUNDS[operation][0][0], "the bound could not distinguish them"


@pytest.mark.parametrize("size", [24, 96, 200])
def test_resize__is_pillows_within_one_level(size):
    image = photograph(120, 150)[10:90, 30:141]
    reference = np.asarray(Image.fromarray(image).resize((size, size), Image.BILINEAR), dtype=float)
    assert np.abs(resize(image, size, size) - reference).max() <= 1


def test_views__are_a_function_of_the_seed_and_the_two_ways_agree():
    images = type("One", (), {"pixels": lambda self, item: photograph(80, 110, item)})()
    recipe = RECIPES["moco_v2"]
    state = torch.get_rng_state()
    ours, device = (make(recipe, 32, 0.2) for make in (OpenCVViews, DeviceViews))
    samples = [device(images, item, ("query", "key"), 5 + item) for item in range(8)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    for name in ("query", "key"):
        finished = batched.apply_steps(batch[name].float(), batch[f"{name}{STEPS}"])
        for item in range(8):
            view = ours(images, item, ("query", "key"), 5 + item)[name]
            assert view.shape == (3, 32, 32)
            assert torch.equal(view, ours(images, item, ("query", "key"), 5 + item)[name])
            assert (view - finished[item]).abs().mean() < 1.5
    assert not torch.equal(samples[0]["query"], samples[0]["key"])
    other = ours(images, 0, ("query", "key"), 6)["query"]
    assert not torch.equal(ours(images, 0, ("query", "key"), 5)["query"], other)
    assert torch.equal(torch.get_rng_state(), state), "a sample must not disturb the process's generator"


@pytest.mark.parametrize("recipe", ["moco_v1", "moco_v2"])
def test_apply_steps__of_a_view_do_not_depend_on_its_batch(recipe):
    rng = Random(3)
    steps = [draw_view(RECIPES[recipe], 64, 64, 0.2, rng).steps for _ in range(12)]
    images = torch.from_numpy(np.stack([photograph(32, 32, seed) for seed in range(12)])).permute(0, 3, 1, 2)
    encoded = torch.stack([encode_steps(one) for one in steps])
    whole = batched.apply_steps(images.float(), encoded)
    for row in range(12):
        alone = batched.apply_steps(images[row : row + 1].float(), encoded[row : row + 1])[0]
        torch.testing.assert_close(whole[row], alone, rtol=0, atol=1e-3)
        reference = apply_steps(images[row].permute(1, 2, 0).numpy(), steps[row])
        assert np.abs(alone.permute(1, 2, 0).numpy() - reference).mean() < 2


@pytest.mark.parametrize("sigma", [0.1, 1.3, 3.0])
def test_blur__reaches_over_a_border_that_goes_on(sigma):
    """The definition: a weighted mean of the surrounding pixels, with the border's pixels repeated."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (9, 9))
    radius = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    padded = np.pad(image, radius, mode="edge")
    reference = [[(kernel * padded[y : y + len(taps), x : x + len(taps)]).sum() for x in range(9)] for y in range(9)]
    three = torch.from_numpy(image).expand(1, 3, 9, 9).double()
    found = batched.blur(three, torch.tensor([sigma], dtype=torch.double))
    np.testing.assert_allclose(found[0, 1], reference, atol=1e-3)
