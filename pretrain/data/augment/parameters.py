"""The random parameters of a view, drawn before anything is computed."""

import math
from enum import IntEnum
from random import Random
from typing import NamedTuple

from .recipes import ASPECT_RATIOS, BLUR_SIGMAS, Recipe


class Operation(IntEnum):
    """An operation of a step; its number encodes it in the tensor of steps that a device receives."""

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
    """A rectangle of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


class ViewParameters(NamedTuple):
    """All random parameters of a view.

    Attributes:
        crop: the part of the image.
        steps: the operations on the resized crop, in order. All views of a recipe have the same number of steps and the
            same operations in the same places, except that the jitter's order varies; an operation that was not drawn
            is `NOTHING`.
    """

    crop: Crop
    steps: tuple[Step, ...]


def draw_view(recipe: Recipe, height: int, width: int, min_scale: float, rng: Random) -> ViewParameters:
    """Draw the parameters of a view of an image of ``height`` x ``width`` pixels, as torchvision's transforms do.

    Args:
        recipe: the distribution.
        min_scale: smallest area of the crop as a fraction of the image's.
        rng: the source of randomness.
    """
    crop = draw_crop(height, width, min_scale, rng)
    grey = [_with_probability(recipe.grey_probability, (Operation.GREY, 0.0), rng)] if recipe.grey_probability else []
    steps = [*(grey if recipe.grey_first else ()), *_draw_jitter(recipe, rng), *(() if recipe.grey_first else grey)]
    if recipe.blur_probability:
        steps.append(_with_probability(recipe.blur_probability, (Operation.BLUR, rng.uniform(*BLUR_SIGMAS)), rng))
    steps.append(_with_probability(0.5, (Operation.FLIP, 0.0), rng))
    return ViewParameters(crop, tuple(steps))


def draw_crop(height: int, width: int, min_scale: float, rng: Random) -> Crop:
    """Draw the rectangle of torchvision's ``RandomResizedCrop``: a share of the area, a ratio in `ASPECT_RATIOS`.

    If ten rectangles do not fit into the image, return the largest central one with a ratio in the range.
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
