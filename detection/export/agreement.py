"""Checks that an exported model gives the same results as the original model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .trace import outputs_of

# Maximum difference of numbers (scores, and boxes and keypoints in pixels) and, for masks and labels, maximum fraction
# of pixels that may differ.
TOLERANCE = 1e-3
# Maximum fraction of objects that only one of the two models may find. A traced model suppresses duplicates of all
# classes in one pass, on coordinates that are offset by class, which rounds overlaps near the threshold differently.
ALONE = 0.01


@dataclass(frozen=True)
class Agreement:
    """The result of a comparison."""

    images: int
    objects: int  # found by the original model
    alone: int  # objects found by only one of the two models
    difference: float  # the largest one over all objects found by both models


def compare(exported: torch.jit.ScriptModule, model: nn.Module, images: Iterable[torch.Tensor]) -> Agreement:
    """Run an exported model and the original model on images (C x H x W), and compare the results.

    Raises:
        ValueError: the results differ in more than a few objects or in the pixels of an image, or the exported model
            fails.
    """
    count, objects, alone, largest = 0, 0, 0, 0.0
    for count, image in enumerate(images, start=1):  # noqa: B007 (the last value is the number of images)
        expected = outputs_of(model, image)
        size = " x ".join(map(str, image.shape[1:]))
        try:
            with torch.no_grad():
                found = exported(image)
        except RuntimeError as error:  # values that the tracer recorded as constants do not fit this image
            said = str(error).strip().splitlines()[-1]
            raise ValueError(f"the exported model fails on an image of {size} pixels ({said})") from error
        if "labels" in expected:
            difference = _share(expected["labels"], found["labels"])
            if difference > TOLERANCE:
                raise ValueError(
                    f"the exported model labels {difference:.2%} of {size} pixels differently from the original model"
                )
            largest = max(largest, difference)
            continue
        distances = _paired_distances(expected, found)
        objects += len(expected["scores"])
        alone += len(expected["scores"]) + len(found["scores"]) - 2 * len(distances)
        largest = max([largest, *distances])
    if alone > ALONE * objects:
        raise ValueError(
            f"the exported model does not find the same objects as the original model: {alone} of {objects} objects"
            " were found by only one of the two models"
        )
    return Agreement(count, objects, alone, largest)


def _paired_distances(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[float]:
    """Pair the objects that both models found, in any order; return the difference of each pair."""
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
    """Return the differences (N) between an object and N others in one field, with infinity if not comparable."""
    if one.shape != others.shape[1:] or one.dtype != others.dtype:
        return torch.full((len(others),), float("inf"), device=others.device)
    if one.dtype == torch.int64:  # a class
        return torch.where(others == one, 0.0, float("inf"))
    if one.dtype == torch.bool:  # a mask
        return (others != one).flatten(1).float().mean(1)
    return (others - one).abs().reshape(len(others), -1).amax(1)


def _share(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the fraction of pixels that differ, or 1 if the sizes differ."""
    return 1.0 if expected.shape != found.shape else (expected != found).double().mean().item()
