"""The reference for the input: two MoCo v2 views per photograph with Pillow and torchvision."""

import random
from collections.abc import Sequence

import torch
from PIL import Image, ImageFilter
from torch.utils.data import Dataset
from torchvision import transforms


class RandomBlur:
    """Blurs with Pillow, using a standard deviation drawn uniformly from 0.1 to 2 pixels."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the blurred image."""
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def plain_view(size: int) -> transforms.Compose:
    """Build the random MoCo v2 transform from an image to a normalised float32 tensor, 3 x ``size`` x ``size``."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([RandomBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


class PlainViews(Dataset[list[torch.Tensor]]):
    """Two random views of each image file.

    Args:
        files: paths of the images.
        size: side length of the views in pixels.
    """

    def __init__(self, files: Sequence[str], size: int) -> None:
        self.files, self.view = files, plain_view(size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        with open(self.files[index], "rb") as file:  # noqa: PTH123 (like torchvision's loader)
            image = Image.open(file).convert("RGB")
        return [self.view(image) for _ in range(2)]
