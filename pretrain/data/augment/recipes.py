"""The augmentations of MoCo v1, MoCo v2 and supervised training."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """Augmentations that are applied to a view after its crop is resized. Finally, half of all views are flipped.

    Attributes:
        jitter: maximum changes s of brightness, contrast, saturation (factors 1 - s to 1 + s) and hue (-s to s turns of
            the colour circle), applied in random order. None disables the jitter.
        jitter_probability: fraction of views with colour jitter.
        grey_probability: fraction of views that are converted to greyscale.
        grey_first: whether the conversion to greyscale comes before the jitter instead of after it.
        blur_probability: fraction of views that are blurred, after all other augmentations.
        blur_sigma: largest standard deviation of the blur, in pixels of the resized crop. The smallest is
            `MIN_BLUR_SIGMA`.
    """

    jitter: tuple[float, float, float, float] | None = None
    jitter_probability: float = 1.0
    grey_probability: float = 0.0
    grey_first: bool = False
    blur_probability: float = 0.0
    blur_sigma: float = 2.0


# As in the original code. "supervised" is torchvision's ImageNet recipe and that of the linear protocol.
RECIPES = {
    "moco_v1": Recipe((0.4, 0.4, 0.4, 0.4), grey_probability=0.2, grey_first=True),
    "moco_v2": Recipe((0.4, 0.4, 0.4, 0.1), 0.8, grey_probability=0.2, blur_probability=0.5),
    "supervised": Recipe(),
}

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a crop (width / height), torchvision's default
MIN_BLUR_SIGMA = 0.1  # in pixels (MoCo v2, after SimCLR)


def find_recipe(name: str) -> Recipe:
    """Return one of ``RECIPES``.

    Raises:
        ValueError: ``name`` is unknown.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown augmentation {name!r}; expected one of {', '.join(map(repr, RECIPES))}")
    return RECIPES[name]
