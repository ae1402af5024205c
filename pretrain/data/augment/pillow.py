"""Views with torchvision's transforms of Pillow images, as in the original code: the reference implementation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.transforms import functional as TF

from ..decoding import Images
from .recipes import MIN_BLUR_SIGMA, Recipe


class GaussianBlur:
    """Blurs with a standard deviation sampled uniformly from 0.1 to ``highest`` pixels (MoCo v2, after SimCLR)."""

    def __init__(self, highest: float) -> None:
        self.highest = highest

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image blurred."""
        sigma = MIN_BLUR_SIGMA + (self.highest - MIN_BLUR_SIGMA) * torch.rand(1).item()
        return image.filter(ImageFilter.GaussianBlur(radius=sigma))


def build_view(recipe: Recipe, size: int = 224, min_scale: float = 0.2) -> Callable[[Image.Image], Image.Image]:
    """Build the random transform from image to image for a recipe.

    Args:
        recipe: the augmentations to apply.
        size: side length of the square crop, in pixels.
        min_scale: smallest area of the crop, as a fraction of the image area.
    """
    colours: list[Any] = []
    if recipe.jitter:
        jitter = transforms.ColorJitter(*recipe.jitter)
        sometimes = recipe.jitter_probability < 1
        colours.append(transforms.RandomApply([jitter], p=recipe.jitter_probability) if sometimes else jitter)
    if recipe.grey_probability:
        colours.insert(0 if recipe.grey_first else len(colours), transforms.RandomGrayscale(recipe.grey_probability))
    if recipe.blur_probability:
        colours.append(transforms.RandomApply([GaussianBlur(recipe.blur_sigma)], p=recipe.blur_probability))
    crop = transforms.RandomResizedCrop(size, scale=(min_scale, 1.0))
    return transforms.Compose([crop, *colours, transforms.RandomHorizontalFlip()])


class PillowViews:
    """Creates views with a transform of Pillow images.

    Args:
        transform: maps an image to an image, and may use PyTorch's random generator.
    """

    augment = "pil"

    def __init__(self, transform: Callable[[Image.Image], Image.Image]) -> None:
        self.transform = transform

    def __call__(self, images: Images, item: Any, names: Sequence[str], seed: int) -> dict[str, torch.Tensor]:
        """See `ViewMaker`."""
        image = images[item]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return {name: TF.pil_to_tensor(self.transform(image)) for name in names}
