"""Grouped batch norm for any device, which applies PyTorch's batch norm to one group after another."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def batch_norm_by_parts(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    groups: int,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """Normalise each of ``groups`` equal, contiguous parts of a batch with its own statistics.

    Args:
        x: input, N x C x H x W, in any memory format. N must be a multiple of ``groups``.
        weight, bias: parameters of the subsequent affine map, C.
        running_mean, running_var: running statistics, C, updated in place with the averages of the groups' means and
            unbiased variances.
        groups: number of groups G.
        momentum: weight of the batch in the running statistics, 0 to 1.
        eps: constant added to the biased variance.
    """
    return _BatchNormByParts.apply(x, weight, bias, running_mean, running_var, groups, momentum, eps)


class _BatchNormByParts(torch.autograd.Function):
    """Writes the results of each group directly into the output, because concatenation would copy every activation.

    Parts of a batch are views in any memory format, whereas folding groups into channels would copy channels_last data.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        groups: int,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        rows = len(x) // groups
        normalised = torch.empty_like(x)
        statistics = weight.new_zeros(4, groups, x.shape[1])
        # With a momentum of 1, the "running" statistics are those of the group.
        for part, into, mean, var, saved_mean, saved_invstd in zip(
            x.split(rows), normalised.split(rows), *statistics, strict=True
        ):
            torch.native_batch_norm(part, weight, bias, mean, var, True, 1.0, eps, out=(into, saved_mean, saved_invstd))
        mean_of_means, mean_of_vars = statistics[:2].mean(dim=1)
        running_mean.lerp_(mean_of_means, momentum)
        running_var.lerp_(mean_of_vars, momentum)
        ctx.save_for_backward(x, weight, statistics[2:])
        ctx.eps = eps
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, saved = ctx.saved_tensors
        rows = len(x) // saved.shape[1]
        by_x, by_affine = torch.empty_like(x), []
        for part, its_gradient, into, saved_mean, saved_invstd in zip(
            x.split(rows), gradient.split(rows), by_x.split(rows), *saved, strict=True
        ):
            by_part, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward.default(
                its_gradient, part, weight, None, None, saved_mean, saved_invstd, True, ctx.eps, [True, True, True]
            )
            into.copy_(by_part)
            by_affine += [by_weight, by_bias]
        by_weight, by_bias = torch.stack(by_affine).view(-1, 2, len(weight)).sum(dim=0)
        return by_x, by_weight, by_bias, *[None] * 5
