"""The augmentations of MoCo v1, of MoCo v2 and of supervised training."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """The augmentations of a view between resizing its crop and flipping it; half of all views are flipped.

    Attributes:
        jitter: how far brightness, contrast and saturation (factors 1 - s to 1 + s) and hue (-s to s turns of the
            colour circle) may change, in random order; None: no change.
        jitter_probability: share of the views whose colours change.
        grey_probability: share of the views that lose their colours.
        grey_first: whether they lose them before the jitter instead of after it.
        blur_probability: share of the views that are blurred, after all else.
    """

    jitter: tuple[float, float, float, float] | None = None
    jitter_probability: float = 1.0
    grey_probability: float = 0.0
    grey_first: bool = False
    blur_probability: float = 0.0


# As in the original code. "supervised" is torchvision's ImageNet recipe and the linear protocol's.
RECIPES = {
    "moco_v1": Recipe((0.4, 0.4, 0.4, 0.4), grey_probability=0.2, grey_first=True),
    "moco_v2": Recipe((0.4, 0.4, 0.4, 0.1), 0.8, grey_probability=0.2, blur_probability=0.5),
    "supervised": Recipe(),
}

# Width over height of a crop (torchvision's default), and standard deviation of the blur in pixels (MoCo v2, after
# SimCLR).
ASPECT_RATIOS = (3 / 4, 4 / 3)
BLUR_SIGMAS = (0.1, 2.0)


def find_recipe(name: str) -> Recipe:
    """Return one of ``RECIPES``.

    Raises:
        ValueError: unknown ``name``.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown augmentation {name!r}; expected one of {', '.join(map(repr, RECIPES))}")
    return RECIPES[name]
