"""The random parameters of a view, which are sampled before any pixels are computed."""

import math
from enum import IntEnum
from random import Random
from typing import NamedTuple

from .recipes import ASPECT_RATIOS, MIN_BLUR_SIGMA, Recipe


class Operation(IntEnum):
    """An operation in a step. Its number represents it in the tensor of steps that is sent to a device."""

    NONE = 0
    BRIGHTNESS = 1  # amount: factor
    CONTRAST = 2  # amount: factor
    SATURATION = 3  # amount: factor
    HUE = 4  # amount: share of the colour circle, -0.5 to 0.5
    GREY = 5
    BLUR = 6  # amount: standard deviation in pixels
    FLIP = 7  # left to right


Step = tuple[Operation, float]

NOTHING: Step = (Operation.NONE, 0.0)

JITTERED = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.SATURATION, Operation.HUE)


class Crop(NamedTuple):
    """A rectangle in an image, in integer pixels."""

    top: int
    left: int
    height: int
    width: int


class ViewParameters(NamedTuple):
    """All random parameters of a view.

    Attributes:
        crop: the part of the image to use.
        steps: operations on the resized crop, in order. All views of a recipe have the same number of steps and the
            same operations at the same positions, except that the order of the colour jitter varies. An operation that
            was not selected is replaced by `NOTHING`.
    """

    crop: Crop
    steps: tuple[Step, ...]


def draw_view(recipe: Recipe, height: int, width: int, min_scale: float, rng: Random) -> ViewParameters:
    """Sample the parameters of a view of an image with ``height`` x ``width`` pixels, like torchvision's transforms.

    Args:
        recipe: the distribution of the parameters.
        min_scale: smallest area of the crop, as a fraction of the image area.
        rng: the random generator.
    """
    crop = draw_crop(height, width, min_scale, rng)
    grey = [_with_probability(recipe.grey_probability, (Operation.GREY, 0.0), rng)] if recipe.grey_probability else []
    steps = [*(grey if recipe.grey_first else ()), *_draw_jitter(recipe, rng), *(() if recipe.grey_first else grey)]
    if recipe.blur_probability:
        sigma = rng.uniform(MIN_BLUR_SIGMA, recipe.blur_sigma)
        steps.append(_with_probability(recipe.blur_probability, (Operation.BLUR, sigma), rng))
    steps.append(_with_probability(0.5, (Operation.FLIP, 0.0), rng))
    return ViewParameters(crop, tuple(steps))


def draw_crop(height: int, width: int, min_scale: float, rng: Random) -> Crop:
    """Sample the rectangle of torchvision's ``RandomResizedCrop``: a fraction of the area and an aspect ratio.

    If ten sampled rectangles do not fit into the image, return the largest central one with a ratio in `ASPECT_RATIOS`.
    """
    lowest, highest = ASPECT_RATIOS
    for _ in range(10):
        area = height * width * rng.uniform(min_scale, 1.0)
        ratio = math.exp(rng.uniform(math.log(lowest), math.log(highest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Crop(rng.randint(0, height - h), rng.randint(0, width - w), h, w)
    ratio = min(max(width / height, lowest), highest)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return Crop((height - h) // 2, (width - w) // 2, h, w)


def _draw_jitter(recipe: Recipe, rng: Random) -> list[Step]:
    if recipe.jitter is None:
        return []
    *factors, hue = recipe.jitter
    steps = [(JITTERED[i], rng.uniform(max(0.0, 1 - strength), 1 + strength)) for i, strength in enumerate(factors)]
    steps.append((Operation.HUE, rng.uniform(-hue, hue)))
    rng.shuffle(steps)
    return steps if rng.random() < recipe.jitter_probability else [NOTHING] * len(steps)


def _with_probability(probability: float, step: Step, rng: Random) -> Step:
    return step if rng.random() < probability else NOTHING
