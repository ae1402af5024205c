"""The limits of a device: its arithmetic rate and its bandwidth, measured with large single operations."""

from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional as F

from .alternate import clock_of

REPEATS = 5


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of some runs, since a limit is what the device reaches undisturbed."""
    clock = clock_of(device)
    run()
    seconds = []
    for _ in range(REPEATS):
        began = clock.now()
        run()
        seconds.append(clock.now() - began)
    return min(seconds)


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, side: int = 0) -> float:
    """Return the FLOP/s of a product of two matrices, ``side`` x ``side``; a multiply-add is two operations.

    By default matrices are large enough to fill the device.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _fastest(lambda: a @ b, device)


@cache
def conv_rate(device: torch.device, dtype: torch.dtype, channels: int = 256, side: int = 28, images: int = 0) -> float:
    """Return the FLOP/s of a 3x3 convolution of ``images`` x ``channels`` x ``side`` x ``side``, channels_last.

    By default there are enough images to fill the device.
    """
    images = images or (512 if device.type == "cuda" else 16)
    x = torch.randn(images, channels, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    flops = 2 * images * side**2 * channels**2 * 9
    with torch.no_grad():
        return flops / _fastest(lambda: F.conv2d(x, weight, padding=1), device)


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the higher of `matmul_rate` and `conv_rate`, which no step of a network exceeds."""
    return max(matmul_rate(device, dtype), conv_rate(device, dtype))


@cache
def copy_bandwidth(device: torch.device, nbytes: int = 0) -> float:
    """Return the bytes/s, read and written together, of a copy of ``nbytes``, which exceed the caches."""
    nbytes = nbytes or (2**31 if device.type == "cuda" else 2**28)
    source = torch.ones(nbytes, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * nbytes / _fastest(lambda: target.copy_(source), device)
