"""Views on 8-bit images with OpenCV and PyTorch: faster than Pillow, with results that differ by a few grey levels.

``tests/pretrain/data/augment/test_opencv.py`` checks how far each operation differs from Pillow's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..decoding import Images
from . import STEPS
from .parameters import Operation, Step, draw_view
from .recipes import Recipe

# Pillow truncates blended values, whereas OpenCV rounds them to the nearest integer.
CUT_OFF = -0.5

# Weights of red, green and blue in the grey value (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)

# 3 x 4 matrices that map (red, green, blue, 1) to three copies of the grey value, and to the colour minus the grey.
TO_GREY = np.array([[*GREY, CUT_OFF]] * 3, dtype=np.float32)
FROM_GREY = np.eye(3, 4, dtype=np.float32) - TO_GREY * np.array([1, 1, 1, 0], dtype=np.float32)


class OpenCVViews:
    """Creates views in the process that decodes the images.

    Args:
        recipe: the augmentations to apply.
        size: side length of the square crop, in pixels.
        min_scale: smallest area of the crop, as a fraction of the image area.
    """

    augment = "cpu"

    def __init__(self, recipe: Recipe, size: int, min_scale: float) -> None:
        self.recipe, self.size, self.min_scale = recipe, size, min_scale

    def __call__(self, images: Images, item: Any, names: Sequence[str], seed: int) -> dict[str, torch.Tensor]:
        """See `ViewMaker`."""
        views = self.crops(images.pixels(item), len(names), Random(seed))
        return {
            name: channels_first(apply_steps(view, steps)) for name, (view, steps) in zip(names, views, strict=True)
        }

    def crops(self, image: np.ndarray, count: int, rng: Random) -> Iterator[tuple[np.ndarray, tuple[Step, ...]]]:
        """Yield ``count`` random crops of an image (H x W x 3, uint8), resized, with the steps to apply to each."""
        rows, columns = image.shape[:2]
        for _ in range(count):
            (top, left, height, width), steps = draw_view(self.recipe, rows, columns, self.min_scale, rng)
            yield resize(image[top : top + height, left : left + width], self.size, self.size), steps


class DeviceViews(OpenCVViews):
    """Creates the resized crops of views and leaves the steps to the training device; see `OpenCVViews`."""

    augment = "device"

    def __call__(self, images: Images, item: Any, names: Sequence[str], seed: int) -> dict[str, torch.Tensor]:
        """See `ViewMaker`."""
        sample: dict[str, torch.Tensor] = {}
        for name, (view, steps) in zip(names, self.crops(images.pixels(item), len(names), Random(seed)), strict=True):
            sample |= {name: channels_first(view), f"{name}{STEPS}": encode_steps(steps)}
        return sample


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (H x W x 3, uint8) with antialiased bilinear interpolation, like Pillow."""
    # NumPy copies the rows of a crop faster than PyTorch does.
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = F.interpolate(whole, size=(height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()  # contiguous, because the memory format stays channels-last


def apply_steps(image: np.ndarray, steps: Iterable[Step]) -> np.ndarray:
    """Apply the steps of a view, in order, to an image (S x S x 3, uint8), and return a new contiguous image."""
    for operation, amount in steps:
        if operation != Operation.NONE:
            image = OPERATIONS[operation](image, amount)
    return image


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply all values by a factor."""
    return cv2.addWeighted(image, factor, image, 0.0, CUT_OFF)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of all values from the mean grey value of the image."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.addWeighted(image, factor, image, 0.0, mean * (1 - factor) + CUT_OFF)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of the values in each pixel from its grey value."""
    return cv2.transform(image, TO_GREY + np.float32(factor) * FROM_GREY)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Rotate the hue by a fraction of the colour circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # A full turn is 256 steps, so the sum wraps around correctly. Pillow and torchvision use 255 integer steps.
    hsv[..., 0] += np.uint8(round(int(turn * 255) * 256 / 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grey(image: np.ndarray, _: float) -> np.ndarray:
    """Replace each pixel with its grey value."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a Gaussian of the given standard deviation in pixels, replicating border pixels."""
    side = 2 * blur_radius(sigma) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def flip(image: np.ndarray, _: float) -> np.ndarray:
    """Flip the image horizontally."""
    return cv2.flip(image, 1)


def encode_steps(steps: Sequence[Step]) -> torch.Tensor:
    """Return the steps of a view as a float32 tensor of operations and amounts, steps x 2."""
    return torch.tensor(steps, dtype=torch.float32)


def channels_first(image: np.ndarray) -> torch.Tensor:
    """Return an image (H x W x 3) as a tensor, 3 x H x W, that shares its memory."""
    return torch.from_numpy(image).permute(2, 0, 1)


def blur_radius(sigma: float) -> int:
    """Return the radius of a Gaussian kernel in pixels: three standard deviations, but at least one pixel."""
    return max(1, round(3 * sigma))


OPERATIONS: dict[Operation, Callable[[np.ndarray, float], np.ndarray]] = {
    Operation.BRIGHTNESS: brightness,
    Operation.CONTRAST: contrast,
    Operation.SATURATION: saturation,
    Operation.HUE: hue,
    Operation.GREY: grey,
    Operation.BLUR: blur,
    Operation.FLIP: flip,
}
