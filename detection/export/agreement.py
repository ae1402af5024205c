"""Checks whether an exported model finds the same as the original model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .trace import outputs_of

# The largest allowed difference of numbers (boxes and keypoints in pixels, scores), and for masks and labels the
# largest share of pixels that may differ.
TOLERANCE = 1e-3
# The share of objects that only one of the two models may find. A traced model suppresses duplicates of all classes in
# one pass, on coordinates that are moved apart by class, which rounds overlaps near the threshold differently.
ALONE = 0.01


@dataclass(frozen=True)
class Agreement:
    """The result of a comparison."""

    images: int
    objects: int  # that the model finds
    alone: int  # objects that only one of the two finds
    difference: float  # the largest, over the objects that both find


def compare(exported: torch.jit.ScriptModule, model: nn.Module, images: Iterable[torch.Tensor]) -> Agreement:
    """Run an exported model and the original on images, each C x H x W, and compare the results.

    Raises:
        ValueError: they differ in more than a few objects, or in the pixels of an image; or the exported model fails.
    """
    count, objects, alone, largest = 0, 0, 0, 0.0
    for count, image in enumerate(images, start=1):  # noqa: B007 (the last one is their number)
        expected = outputs_of(model, image)
        size = " x ".join(map(str, image.shape[1:]))
        try:
            with torch.no_grad():
                found = exported(image)
        except RuntimeError as error:  # values that the tracer took for constants do not suit this image
            said = str(error).strip().splitlines()[-1]
            raise ValueError(f"the exported model does not accept an image of {size} pixels ({said})") from error
        if "labels" in expected:
            difference = _share(expected["labels"], found["labels"])
            if difference > TOLERANCE:
                raise ValueError(f"the exported model labels {difference:.2%} of {size} pixels unlike the original")
            largest = max(largest, difference)
            continue
        distances = _paired_distances(expected, found)
        objects += len(expected["scores"])
        alone += len(expected["scores"]) + len(found["scores"]) - 2 * len(distances)
        largest = max([largest, *distances])
    if alone > ALONE * objects:
        raise ValueError(
            f"the exported model does not find the same as the original: of {objects} objects, only one of the two"
            f" finds {alone}"
        )
    return Agreement(count, objects, alone, largest)


def _paired_distances(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[float]:
    """Pair the objects that are the same in both, in any order; return the difference of each pair."""
    distances, free = [], torch.zeros(len(found["scores"]), device=found["scores"].device)  # infinity: already paired
    for row in range(len(expected["scores"])):
        if not len(free):
            break
        apart = torch.stack([free, *(_distances(tensor[row], found[name]) for name, tensor in expected.items())]).amax(
            0
        )
        nearest = int(apart.argmin())
        if apart[nearest] <= TOLERANCE:
            distances.append(float(apart[nearest]))
            free[nearest] = float("inf")
    return distances


def _distances(one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the difference of one object to each of N others in one respect (N); infinity if not comparable."""
    if one.shape != others.shape[1:] or one.dtype != others.dtype:
        return torch.full((len(others),), float("inf"), device=others.device)
    if one.dtype == torch.int64:  # a class
        return torch.where(others == one, 0.0, float("inf"))
    if one.dtype == torch.bool:  # a mask
        return (others != one).flatten(1).float().mean(1)
    return (others - one).abs().reshape(len(others), -1).amax(1)


def _share(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the share of pixels that differ; 1 if the images have different sizes."""
    return 1.0 if expected.shape != found.shape else (expected != found).double().mean().item()
