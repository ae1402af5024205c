"""Random views of the images selected by a sampler, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from mocodet.common.seeds import mix

from .augment import ViewMaker
from .decoding import Images

# Mean and standard deviation of the RGB pixels in ImageNet, 0 to 255. Detectors that use these weights need the same
# values (docs/weights.md).
PIXEL_MEAN = (123.675, 116.280, 103.530)
PIXEL_STD = (58.395, 57.120, 57.375)


# Batch entry that lists replaced images, if any; see `.replacing`.
SKIPPED = "skipped"


@dataclass(eq=False)
class Views(Dataset[dict[str, torch.Tensor]]):
    """Independent random views of images. Each view has a name, such as query and key.

    The randomness of a sample depends only on the seed and the position of the sample in the training stream. It is
    independent of the number of workers and processes, and of interruptions of the run.

    Args:
        images: maps an item from the sampler (an index into a folder, or bytes from a shard) to an image.
        make: creates the views of an image; see `mocodet.pretrain.data.augment`.
        seed: seed of the run.
        names: names of the views.
        labels: class of each index, int64, if the images are labelled.
        cache_side: shorter side, in pixels, to which a cache has shrunk larger images, or 0 if there is no cache.
    """

    images: Images
    make: ViewMaker
    seed: int
    names: Sequence[str] = ("query", "key")
    labels: torch.Tensor | None = None
    cache_side: int = 0

    def __getitem__(self, place: tuple[Any, int]) -> dict[str, torch.Tensor]:
        """Return the views of the image ``item`` for position ``draw`` in the training stream.

        Args:
            place: ``(item, draw)``, as yielded by the sampler.

        Returns:
            an entry for each of ``names`` (uint8, 3 x size x size, RGB) and the steps that `ViewMaker` adds;
            ``"index"``, the image's index in the data set (int64 scalar), if items are indices; and ``"label"`` (int64
            scalar), if the images are labelled.
        """
        item, draw = place
        sample = self.make(self.images, item, self.names, mix(self.seed, draw))
        if isinstance(item, int):
            sample["index"] = torch.tensor(item)
            if self.labels is not None:
                sample["label"] = self.labels[item]
        return sample

    def state_dict(self) -> dict[str, str | int]:
        """Return the settings that affect the pixels of a sample, except for the images and the seed."""
        return {"augment": self.make.augment, "cache_side": self.cache_side}

    def load_state_dict(self, state: dict[str, str | int]) -> None:
        """Check that the views are created with the same settings as in the run that saved ``state``.

        Raises:
            ValueError: the settings differ. The message contains the settings to use.
        """
        mine = self.state_dict()
        keys = {"augment": "DATA.AUGMENT", "cache_side": "DATA.CACHE_SIDE"}
        if changed := [key for key in keys if mine[key] != state[key]]:
            found, expected = (", ".join(f"{keys[key]} {values[key]}" for key in changed) for values in (mine, state))
            raise ValueError(
                f"the checkpoint was trained with {expected}, but this run has {found}; resume with the same settings"
                " (CACHE_SIDE 0 means DATA.CACHE none), or start a new run in another OUTPUT_DIR"
            )


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples into a batch. Views, N x 3 x S x S, remain channels-last, the layout produced by decoders."""
    skipped = [one for sample in samples for one in sample.pop(SKIPPED, ())]
    last = [{name: value.movedim(0, -1) if value.ndim == 3 else value for name, value in s.items()} for s in samples]
    batch = default_collate(last)
    batch = {name: value.movedim(-1, 1) if value.ndim == 4 else value for name, value in batch.items()}
    return {**batch, SKIPPED: skipped} if skipped else batch


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Convert RGB images (0 to 255, N x 3 x H x W) to float32 with approximately zero mean and unit variance."""
    if not images.is_contiguous(memory_format=torch.channels_last):
        mean, std = _pixel_statistics(images.device, 1)
        return (images.float() - mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
    # Per channel, a CPU would compute on vectors of three numbers. The rows of complete images are long vectors.
    count, _, height, width = images.shape
    mean, std = _pixel_statistics(images.device, height * width)
    rows = images.permute(0, 2, 3, 1).reshape(count, -1)  # shares the memory of the images
    return (rows.float() - mean).div_(std).view(count, height, width, 3).permute(0, 3, 1, 2)


@cache
def _pixel_statistics(device: torch.device, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Cached for each device and size, because copying from the CPU would make every step wait for the GPU.
    mean, std = (torch.tensor(values, device=device).repeat(pixels) for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, std
