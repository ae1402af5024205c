"""Random views of an image: the augmentations of MoCo v1, of MoCo v2 and of supervised training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import functional as TF

# Mean and standard deviation of ImageNet's pixels, RGB, of 0 to 255: what detectors that start from these weights
# must be given as well (README, "Bring your own weights").
PIXEL_MEAN = (123.675, 116.280, 103.530)
PIXEL_STD = (58.395, 57.120, 57.375)

View = Callable[[Image.Image], Image.Image]


def gaussian_blur(image: Image.Image) -> Image.Image:
    """Blur with a standard deviation drawn uniformly from 0.1 to 2 pixels (MoCo v2, after SimCLR)."""
    return image.filter(ImageFilter.GaussianBlur(radius=0.1 + 1.9 * torch.rand(1).item()))


# The random steps of each recipe between crop and flip, in the order of the original code: v1 turns grey before it
# jitters colours, v2 after. "supervised" is torchvision's ImageNet recipe and the linear protocol's.
AUGMENTATIONS = {
    "moco_v1": (transforms.RandomGrayscale(0.2), transforms.ColorJitter(0.4, 0.4, 0.4, 0.4)),
    "moco_v2": (
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(0.2),
        transforms.RandomApply([gaussian_blur], p=0.5),
    ),
    "supervised": (),
}


def build_view(name: str, size: int = 224, min_scale: float = 0.2) -> View:
    """Build the random transform, image to image, of one of ``AUGMENTATIONS``.

    Args:
        name: which recipe.
        size: side of the square crop, in pixels.
        min_scale: smallest area of the crop as a fraction of the image's.

    Raises:
        ValueError: unknown ``name``.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {name!r}; expected one of {', '.join(map(repr, AUGMENTATIONS))}")
    crop = transforms.RandomResizedCrop(size, scale=(min_scale, 1.0))
    return transforms.Compose([crop, *AUGMENTATIONS[name], transforms.RandomHorizontalFlip()])


@dataclass(eq=False)
class Views(Dataset):
    """Independent random views of decoded images, one for each name: query and key, or a single one.

    The randomness of a sample comes from the seed and the sample's place in the training stream alone, so it depends
    neither on the number of workers or processes nor on where a run was stopped and resumed.

    Args:
        images: gives an RGB image for each item that the sampler draws: a place in a folder, or a shard's bytes.
        view: the random transform.
        seed: seed of the run.
        names: of the views.
        labels: class of each place, int64, where there are labels.
    """

    images: Dataset[Image.Image]
    view: View
    seed: int
    names: Sequence[str] = ("query", "key")
    labels: torch.Tensor | None = None

    def __getitem__(self, place: tuple[Any, int]) -> dict[str, torch.Tensor]:
        """Make the views of the image ``item`` for place ``draw`` of the training stream.

        Args:
            place: ``(item, draw)``, as the sampler yields them.

        Returns:
            each of ``names``: uint8, 3 x size x size, RGB; ``"index"`` (int64 scalar), the image's place in the data
            set, where items are places; ``"label"`` (int64 scalar), where there are labels.
        """
        item, draw = place
        image = self.images[item]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix(self.seed, draw))
            sample = {name: TF.pil_to_tensor(self.view(image)) for name in self.names}
        if isinstance(item, int):
            sample["index"] = torch.tensor(item)
            if self.labels is not None:
                sample["label"] = self.labels[item]
        return sample


def mix(seed: int, draw: int) -> int:
    """Hash a run's seed and a draw's number, so that neighbours in either get unrelated seeds.

    PyTorch's CPU generator uses the lower 32 of the 63 bits: now and then two draws of a long run share a seed, and
    with it their crops, of different images.

    The finaliser of SplitMix64 (Steele et al., OOPSLA 2014), applied to both in turn.
    """
    mask = (1 << 64) - 1
    state = 0
    for number in (seed, draw):
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 RGB images (N x 3 x H x W) into float32 of about zero mean and unit variance."""
    mean, std = _pixel_statistics(images.device)
    return (images.float() - mean) / std


@cache
def _pixel_statistics(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Made once for each device: a copy from the CPU would make every step wait for the GPU.
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, std
