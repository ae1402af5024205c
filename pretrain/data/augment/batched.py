"""Colour changes, blur and flips for a complete batch of views, on the training device.

The operations match Pillow's, but use floating-point values from 0 to 255 that are never rounded. The steps stay on the
CPU, which makes it possible to select the rows for each operation without waiting for the device.
"""

import torch

from ...host import send
from .opencv import CUT_OFF, GREY
from .parameters import Operation


def apply_steps(images: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Apply the steps of each view in a batch, in order.

    Args:
        images: views, N x 3 x S x S, 0 to 255, of a floating-point type, on any device. They are modified in place.
        steps: steps of each view, N x steps x 2, on the CPU; see `opencv.encode_steps`. All must use the same recipe.

    Returns:
        the images, N x 3 x S x S, 0 to 255.
    """
    for operations, amounts in zip(steps[..., 0].unbind(1), steps[..., 1].unbind(1), strict=True):
        if (weights := _blend_weights(operations, amounts)) is not None:
            blend(images, _on(weights, images))
        for operation, compute in ((Operation.HUE, turn_hue), (Operation.BLUR, blur), (Operation.FLIP, _flip)):
            rows = (operations == operation).nonzero().flatten()
            if len(rows):
                there = _on(rows, images)
                images[there] = compute(images[there], amounts[rows])
    return images


def blend(images: torch.Tensor, weights: torch.Tensor) -> None:
    """Blend each image with its grey values and their mean in place, clipping the result to 0 and 255.

    Brightness, contrast, saturation and conversion to greyscale are all special cases of this operation.

    Args:
        images: N x 3 x S x S.
        weights: weights of the image, its grey values and their mean, and an offset: N x 4.
    """
    own, of_grey, of_mean, added = weights.view(-1, 4, 1, 1, 1).unbind(1)  # N x 1 x 1 x 1 each
    grey = _grey(images)  # N x 1 x S x S
    # Pillow rounds the mean to an integer.
    mean = (grey.mean(dim=(2, 3), keepdim=True, dtype=torch.float32) + 0.5).floor().to(images.dtype)
    images.mul_(own).add_(grey.mul_(of_grey).add_(mean * of_mean + added)).clamp_(0, 255)


def turn_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate the hue of each image (N x 3 x S x S) by a fraction of the colour circle (N, on the CPU)."""
    highest, lowest = images.amax(dim=1), images.amin(dim=1)
    chroma = highest - lowest
    red, green, blue = images.unbind(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    # Hue in sixths of the circle. The hue of a grey pixel is arbitrary, because its chroma is 0.
    hue = torch.where(
        highest == red,
        (green - blue) / divisor,
        torch.where(highest == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    whole = (turns * 255).trunc() / 255  # like Pillow's 8-bit hue, to which torchvision adds integers
    hue = hue + _on(6 * whole, images).view(-1, 1, 1)
    # f(n) = V - C max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6, for red, green and blue.
    turned = []
    for n in (5, 3, 1):
        k = (hue + n).remainder_(6)
        turned.append(highest - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(turned, dim=1)


def blur(images: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Blur each image (N x 3 x S x S) with a Gaussian of the given standard deviation (N, pixels, on the CPU).

    Blurring along rows is a product with a banded matrix, and blurring along columns a product with its transpose. On a
    GPU, two matrix products are faster than a convolution with a different kernel for each image.
    """
    reach = int(_blur_radii(sigmas).max())
    matrices = _blur_matrices(_on(sigmas, images), reach, images.shape[-1])[:, None].to(images.dtype)  # N x 1 x S x S
    return (matrices @ images @ matrices.mT).clamp_(0, 255)


def _blur_matrices(sigmas: torch.Tensor, reach: int, size: int) -> torch.Tensor:
    """Return the blur matrices, N x S x S: row i contains the weights of the pixels averaged into pixel i.

    Args:
        sigmas: standard deviations in pixels, N.
        reach: radius in pixels of the widest kernel.
        size: S, the side length of the images.
    """
    taps = torch.arange(-reach, reach + 1, device=sigmas.device, dtype=torch.float32)
    sigmas = sigmas.float()[:, None]
    within = taps.abs() <= _blur_radii(sigmas)
    weights = torch.exp(-0.5 * (taps / sigmas) ** 2) * within
    weights = weights / weights.sum(dim=1, keepdim=True)  # N x taps
    # Border pixels are replicated.
    places = (torch.arange(size, device=sigmas.device)[:, None] + taps.long()).clamp(0, size - 1)  # S x taps
    matrices = sigmas.new_zeros(len(sigmas), size, size)
    return matrices.scatter_add_(2, places.expand(len(sigmas), -1, -1), weights[:, None].expand(-1, size, -1))


def _blur_radii(sigmas: torch.Tensor) -> torch.Tensor:
    """Return the radii of OpenCV's kernels in pixels: three standard deviations, but at least one pixel."""
    return (3 * sigmas.float()).round().clamp(min=1)


def _flip(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return images.flip(3)


def _grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.unbind(1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue)[:, None]


def _blend_weights(operations: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor | None:
    """Return the weights for `blend` (N x 4) from the operations (N) and amounts (N), or None if no row is blended."""
    rest, one, none = 1 - amounts, torch.ones_like(amounts), torch.zeros_like(amounts)
    lost = torch.full_like(amounts, CUT_OFF)  # half a grey level on average
    weights, found = torch.stack([one, none, none, none], dim=1), False
    for operation, mixture in {
        Operation.BRIGHTNESS: (amounts, none, none, lost),
        Operation.CONTRAST: (amounts, none, rest, lost),
        Operation.SATURATION: (amounts, rest, none, lost),
        Operation.GREY: (none, one, none, none),
    }.items():
        rows = operations == operation
        found |= bool(rows.any())
        weights = torch.where(rows[:, None], torch.stack(mixture, dim=1), weights)
    return weights if found else None


def _on(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Move numbers from the CPU to the device of ``images``, and convert them to their type unless they are indices."""
    return send(values if values.dtype == torch.long else values.to(images.dtype), images.device)
