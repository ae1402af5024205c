"""Selects the implementation of grouped batch norm."""

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

from .by_parts import batch_norm_by_parts

logger = logging.getLogger("mocodet.pretrain")

# Receives x, weight, bias, running_mean, running_var, groups, momentum and eps. Returns the normalised x.
GroupedBatchNorm = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, float, float], torch.Tensor
]

# Relative tolerances. One unit in the last place of bfloat16 is 0.008. Sums of a few hundred float32 values vary less.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.02}


def choose(x: torch.Tensor, weight: torch.Tensor) -> GroupedBatchNorm:
    """Return the implementation that normalises ``x`` (N x C x H x W) in training with parameters like ``weight`` (C).

    On CUDA, the Triton kernels are used if they support the batch and pass `check`. Otherwise, groups are normalised
    one after another.
    """
    fits = (
        x.is_cuda
        and x.dtype in TOLERANCES
        and weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    return (_fused(x.device, x.dtype) if fits else None) or batch_norm_by_parts


@cache
def _fused(device: torch.device, dtype: torch.dtype) -> GroupedBatchNorm | None:
    """Return the Triton implementation if it works on ``device``. Otherwise, log a warning once and return None."""
    # Triton compiles kernels for the GPU with the installed C compiler. The only way to know if it works is to try.
    try:
        from .fused import fused_batch_norm

        check(fused_batch_norm, device, dtype)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        logger.warning(
            f"the Triton kernels for batch-norm groups do not work on {device} for {dtype} ({reason}); using a slower"
            " implementation with the same results"
        )
        return None
    return fused_batch_norm


def check(candidate: GroupedBatchNorm, device: torch.device, dtype: torch.dtype) -> None:
    """Compare an implementation with `torch.nn.functional.batch_norm` of each group, on a small random batch.

    Raises:
        AssertionError: outputs, gradients or running statistics differ.
    """
    generator = torch.Generator().manual_seed(0)
    # These sizes are deliberately not multiples of the tile size.
    x, gradient = (torch.randn(6, 70, 7, 5, generator=generator).to(device, dtype) for _ in range(2))
    x, gradient = (value.contiguous(memory_format=torch.channels_last) for value in (x + 3, gradient))
    weight, bias, mean, var = torch.rand(4, 70, generator=generator).to(device)

    def results(implementation: GroupedBatchNorm) -> list[torch.Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        moved = mean.clone(), var.clone()
        with torch.enable_grad():
            normalised = implementation(leaves[0], leaves[1], leaves[2], moved[0], moved[1], 2, 0.1, 1e-5)
        return [normalised.detach(), *torch.autograd.grad(normalised, leaves, gradient), *moved]

    for found, expected in zip(results(candidate), results(_one_by_one), strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[dtype] * scale)


def _one_by_one(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    groups: int,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """Reference implementation that only uses PyTorch's batch norm and its gradients."""
    means, variances = running_mean.repeat(groups, 1), running_var.repeat(groups, 1)
    parts = [
        F.batch_norm(part, mean, var, weight, bias, True, momentum, eps)
        for part, mean, var in zip(x.chunk(groups), means, variances, strict=True)
    ]
    running_mean.copy_(means.mean(dim=0))
    running_var.copy_(variances.mean(dim=0))
    return torch.cat(parts)
