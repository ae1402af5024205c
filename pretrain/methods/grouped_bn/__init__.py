"""Batch norm of the parts of a batch, statistics apart, as several devices would normalise it."""

from .layer import GroupedBatchNorm2d

__all__ = ["GroupedBatchNorm2d"]
