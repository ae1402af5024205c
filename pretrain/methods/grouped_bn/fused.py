"""Grouped batch norm on CUDA: three forward and three backward Triton kernels, for any number of groups.

Applying PyTorch's batch norm to one group after another takes at least two kernels per group. This implementation
treats a channels_last batch as a matrix with a row for each pixel of each image and a column for each channel. A group
is a contiguous range of rows and is divided into chunks to keep the GPU fully occupied. The results of the chunks are
combined in a fixed order, which makes them reproducible.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

# Rows and columns of a program's tile. A 16-bit row has 128 bytes, the size of a memory transaction.
ROWS = tl.constexpr(64)
COLUMNS = tl.constexpr(64)
# Maximum number of chunks per group, because one program combines them all, and the number of columns it combines.
CHUNKS = tl.constexpr(64)
COMBINED_COLUMNS = tl.constexpr(16)
# Number of programs that is enough to fill the largest GPU several times.
PROGRAMS = 1024


def fused_batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    groups: int,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """Compute `batch_norm_by_parts` for a batch in channels_last format.

    Args:
        x: input, N x C x H x W, in channels_last format; float32, float16 or bfloat16.
        weight, bias, running_mean, running_var: parameters and running statistics, C, float32.
        groups, momentum, eps: see `batch_norm_by_parts`.
    """
    return _FusedBatchNorm.apply(x, weight, bias, running_mean, running_var, groups, momentum, eps)


class _Cut(NamedTuple):
    """Partition of a batch into ``groups`` of ``rows`` x ``channels`` each, with ``chunks`` of ``length`` rows."""

    groups: int
    rows: int
    channels: int
    chunks: int
    length: int

    @classmethod
    def of(cls, x: torch.Tensor, groups: int) -> "_Cut":
        channels = x.shape[1]
        rows = x.numel() // (groups * channels)
        wanted = triton.cdiv(PROGRAMS, groups * triton.cdiv(channels, COLUMNS.value))
        tiles = triton.cdiv(rows, ROWS.value)
        length = triton.cdiv(tiles, min(wanted, tiles, CHUNKS.value)) * ROWS.value
        return cls(groups, rows, channels, triton.cdiv(rows, length), length)

    @property
    def over_chunks(self) -> tuple[int, int, int]:
        return self.chunks, triton.cdiv(self.channels, COLUMNS.value), self.groups

    @property
    def over_tiles(self) -> tuple[int, int, int]:
        return triton.cdiv(self.rows, ROWS.value), triton.cdiv(self.channels, COLUMNS.value), self.groups

    @property
    def over_columns(self) -> tuple[int]:
        return (triton.cdiv(self.channels, COMBINED_COLUMNS.value),)


class _FusedBatchNorm(torch.autograd.Function):
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
        cut = _Cut.of(x, groups)
        normalised = torch.empty_like(x)
        partial = weight.new_empty(2, groups, cut.chunks, cut.channels)  # mean and sum of squared deviations
        saved = weight.new_empty(2, groups, cut.channels)  # mean and 1 / standard deviation
        sizes = cut.rows, cut.channels
        with torch.cuda.device_of(x):
            chunk_statistics[cut.over_chunks](x, *partial, *sizes, cut.length)
            combine_statistics[cut.over_columns](
                *partial, *saved, running_mean, running_var, *sizes, cut.length, groups, cut.chunks, momentum, eps
            )
            normalise[cut.over_tiles](x, normalised, *saved, weight, bias, *sizes)
        ctx.save_for_backward(x, weight, saved)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, saved = ctx.saved_tensors
        cut = _Cut.of(x, saved.shape[1])
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        by_x, by_affine = torch.empty_like(x), weight.new_empty(2, cut.channels)
        partial = weight.new_empty(2, cut.groups, cut.chunks, cut.channels)
        sums = weight.new_empty(2, cut.groups, cut.channels)
        sizes = cut.rows, cut.channels
        with torch.cuda.device_of(x):
            chunk_gradients[cut.over_chunks](x, gradient, *saved, *partial, *sizes, cut.length)
            combine_gradients[cut.over_columns](*partial, *sums, *by_affine, cut.channels, cut.groups, cut.chunks)
            input_gradient[cut.over_tiles](x, gradient, by_x, *saved, weight, *sums, *sizes)
        by_bias, by_weight = by_affine
        return by_x, by_weight, by_bias, *[None] * 5


@triton.jit
def tile_offsets(group, first_row, last_row, rows, channels):
    """Return the offsets and mask of a tile of a group, both ROWS x COLUMNS, and the columns with their mask.

    Offsets are 64-bit integers, because a batch may contain more than 2^31 values.
    """
    row = first_row + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    offsets = (group * rows + row).to(tl.int64)[:, None] * channels + column[None, :]
    return offsets, (row < last_row)[:, None] & inside[None, :], column, inside


@triton.jit
def chunk_statistics(x, partial_mean, partial_squares, rows, channels, length):
    """Compute the mean and the sum of squared deviations of each chunk, merging tiles with Chan's method."""
    chunk, group = tl.program_id(0), tl.program_id(2)
    last = tl.minimum((chunk + 1) * length, rows)
    mean = tl.zeros([COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for first in range(chunk * length, last, ROWS):
        offsets, mask, _, _ = tile_offsets(group, first, last, rows, channels)
        values = tl.load(x + offsets, mask, 0.0).to(tl.float32)
        before = (first - chunk * length).to(tl.float32)
        count = tl.minimum(last - first, ROWS).to(tl.float32)
        tile_mean = tl.sum(values, 0) / count
        deviations = tl.where(mask, values - tile_mean[None, :], 0.0)
        shift = tile_mean - mean
        mean += shift * (count / (before + count))
        squares += tl.sum(deviations * deviations, 0) + shift * shift * (before * count / (before + count))
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place = (group * tl.num_programs(0) + chunk) * channels + column
    tl.store(partial_mean + place, mean, column < channels)
    tl.store(partial_squares + place, squares, column < channels)


@triton.jit
def chunk_columns(group, channels, chunks):
    """Return the offsets and mask of the results of a group's chunks, both CHUNKS x COMBINED_COLUMNS."""
    chunk = tl.arange(0, CHUNKS)[:, None]
    column = tl.program_id(0) * COMBINED_COLUMNS + tl.arange(0, COMBINED_COLUMNS)[None, :]
    return (group * chunks + chunk) * channels + column, (chunk < chunks) & (column < channels)


@triton.jit
def combine_statistics(
    partial_mean,
    partial_squares,
    group_mean,
    group_invstd,
    running_mean,
    running_var,
    rows,
    channels,
    length,
    groups,
    chunks,
    momentum,
    eps,
):
    """Compute the mean and inverse standard deviation of each group, and update the running statistics."""
    column = tl.program_id(0) * COMBINED_COLUMNS + tl.arange(0, COMBINED_COLUMNS)
    inside = column < channels
    chunk = tl.arange(0, CHUNKS)
    counts = tl.maximum(tl.minimum(rows - chunk * length, length), 0).to(tl.float32)[:, None]
    mean_of_means = tl.zeros([COMBINED_COLUMNS], tl.float32)
    mean_of_vars = tl.zeros([COMBINED_COLUMNS], tl.float32)
    for group in range(groups):
        offsets, mask = chunk_columns(group, channels, chunks)
        means = tl.load(partial_mean + offsets, mask, 0.0)
        mean = tl.sum(means * counts, 0) / rows
        shifts = tl.where(mask, means - mean[None, :], 0.0)
        squares = tl.sum(tl.load(partial_squares + offsets, mask, 0.0) + shifts * shifts * counts, 0)
        tl.store(group_mean + group * channels + column, mean, inside)
        tl.store(group_invstd + group * channels + column, 1 / tl.sqrt(squares / rows + eps), inside)
        mean_of_means += mean / groups
        mean_of_vars += squares / (rows - 1) / groups
    old = tl.load(running_mean + column, inside)
    tl.store(running_mean + column, old + momentum * (mean_of_means - old), inside)
    old = tl.load(running_var + column, inside)
    tl.store(running_var + column, old + momentum * (mean_of_vars - old), inside)


@triton.jit
def normalise(x, normalised, group_mean, group_invstd, weight, bias, rows, channels):
    """Compute (x - mean) / standard deviation * weight + bias."""
    group = tl.program_id(2)
    offsets, mask, column, inside = tile_offsets(group, tl.program_id(0) * ROWS, rows, rows, channels)
    mean = tl.load(group_mean + group * channels + column, inside)
    scale = tl.load(group_invstd + group * channels + column, inside) * tl.load(weight + column, inside)
    values = tl.load(x + offsets, mask).to(tl.float32)
    tl.store(normalised + offsets, (values - mean[None, :]) * scale[None, :] + tl.load(bias + column, inside), mask)


@triton.jit
def chunk_gradients(x, gradient, group_mean, group_invstd, partial_sum, partial_product, rows, channels, length):
    """Compute the sums, over each chunk, of the gradient and of the gradient times the normalised values."""
    chunk, group = tl.program_id(0), tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mean = tl.load(group_mean + group * channels + column, column < channels, 0.0)
    invstd = tl.load(group_invstd + group * channels + column, column < channels, 0.0)
    last = tl.minimum((chunk + 1) * length, rows)
    total = tl.zeros([COLUMNS], tl.float32)
    product = tl.zeros([COLUMNS], tl.float32)
    for first in range(chunk * length, last, ROWS):
        offsets, mask, _, _ = tile_offsets(group, first, last, rows, channels)
        slope = tl.load(gradient + offsets, mask, 0.0).to(tl.float32)
        values = tl.load(x + offsets, mask, 0.0).to(tl.float32)
        total += tl.sum(slope, 0)
        product += tl.sum(slope * (values - mean[None, :]), 0)
    place = (group * tl.num_programs(0) + chunk) * channels + column
    tl.store(partial_sum + place, total, column < channels)
    tl.store(partial_product + place, product * invstd, column < channels)


@triton.jit
def combine_gradients(
    partial_sum, partial_product, group_sum, group_product, by_bias, by_weight, channels, groups, chunks
):
    """Compute the sums of each group, and the sums over all groups, which are the gradients of bias and weight."""
    column = tl.program_id(0) * COMBINED_COLUMNS + tl.arange(0, COMBINED_COLUMNS)
    inside = column < channels
    total = tl.zeros([COMBINED_COLUMNS], tl.float32)
    product = tl.zeros([COMBINED_COLUMNS], tl.float32)
    for group in range(groups):
        offsets, mask = chunk_columns(group, channels, chunks)
        of_group = tl.sum(tl.load(partial_sum + offsets, mask, 0.0), 0)
        tl.store(group_sum + group * channels + column, of_group, inside)
        total += of_group
        of_group = tl.sum(tl.load(partial_product + offsets, mask, 0.0), 0)
        tl.store(group_product + group * channels + column, of_group, inside)
        product += of_group
    tl.store(by_bias + column, total, inside)
    tl.store(by_weight + column, product, inside)


@triton.jit
def input_gradient(x, gradient, by_x, group_mean, group_invstd, weight, group_sum, group_product, rows, channels):
    """Compute weight / standard deviation * (gradient - its mean - normalised x * the mean of their product)."""
    group = tl.program_id(2)
    offsets, mask, column, inside = tile_offsets(group, tl.program_id(0) * ROWS, rows, rows, channels)
    place = group * channels + column
    mean, invstd = tl.load(group_mean + place, inside), tl.load(group_invstd + place, inside)
    slope_mean = tl.load(group_sum + place, inside) / rows
    projection = tl.load(group_product + place, inside) / rows
    values = tl.load(x + offsets, mask).to(tl.float32)
    slope = tl.load(gradient + offsets, mask).to(tl.float32)
    normalised = (values - mean[None, :]) * invstd[None, :]
    scale = (tl.load(weight + column, inside) * invstd)[None, :]
    tl.store(by_x + offsets, scale * (slope - slope_mean[None, :] - normalised * projection[None, :]), mask)
