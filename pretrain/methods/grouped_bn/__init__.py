"""Batch norm with separate statistics for parts of a batch, as if they were on separate devices."""

from .layer import GroupedBatchNorm2d

__all__ = ["GroupedBatchNorm2d"]
