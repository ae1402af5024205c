"""The limits of a device: its arithmetic rate and memory bandwidth, measured with large single operations."""

from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional as F

from .alternate import clock_of

REPEATS = 5


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """Return the duration of the fastest of REPEATS runs in seconds, which is the least disturbed one."""
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
    """Return the FLOP/s of multiplying two ``side`` x ``side`` matrices. A multiply-add counts as two operations.

    By default, the matrices are large enough to saturate the device.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _fastest(lambda: a @ b, device)


@cache
def conv_rate(device: torch.device, dtype: torch.dtype, channels: int = 256, side: int = 28, images: int = 0) -> float:
    """Return the FLOP/s of a 3x3 convolution on channels_last input, ``images`` x ``channels`` x ``side`` x ``side``.

    By default, the number of images is large enough to saturate the device.
    """
    images = images or (512 if device.type == "cuda" else 16)
    x = torch.randn(images, channels, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    flops = 2 * images * side**2 * channels**2 * 9
    with torch.no_grad():
        return flops / _fastest(lambda: F.conv2d(x, weight, padding=1), device)


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the higher of `matmul_rate` and `conv_rate`, which no training step of a network exceeds."""
    return max(matmul_rate(device, dtype), conv_rate(device, dtype))


@cache
def copy_bandwidth(device: torch.device, nbytes: int = 0) -> float:
    """Return the bytes/s, read plus written, of copying ``nbytes``. By default, the data exceeds the caches."""
    nbytes = nbytes or (2**31 if device.type == "cuda" else 2**28)
    source = torch.ones(nbytes, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * nbytes / _fastest(lambda: target.copy_(source), device)
