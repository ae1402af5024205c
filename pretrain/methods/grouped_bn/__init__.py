"""Batch norm with separate statistics for the parts of a batch, as on several devices."""

from .layer import GroupedBatchNorm2d

__all__ = ["GroupedBatchNorm2d"]
