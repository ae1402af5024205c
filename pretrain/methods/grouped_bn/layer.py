"""The layer for grouped batch norm."""

import torch
from torch import nn

from .choice import choose


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises ``num_groups`` equal, contiguous parts of the batch separately during training.

    Parameters, buffers and evaluation are the same as in `nn.BatchNorm2d`. Each batch updates the running statistics
    once, with the mean of the statistics of its groups.

    Args:
        num_features: number of channels C in the input, N x C x H x W.
        num_groups: number of groups G.

    Raises:
        ValueError: during training, N is not a multiple of G, or a group has only one value per channel.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def __init__(self, num_features: int, num_groups: int) -> None:
        super().__init__(num_features)
        self.num_groups = num_groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N x C x H x W), by group in training and with the running statistics in evaluation."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        if len(x) % self.num_groups:
            raise ValueError(
                f"a batch of {len(x)} cannot be divided into {self.num_groups} batch-norm groups; set MODEL.BN_GROUPS"
            )
        if x.numel() < 2 * self.num_groups * self.num_features:
            raise ValueError(
                f"an input of shape {tuple(x.shape)} has fewer than two values per channel in each of"
                f" {self.num_groups} batch-norm groups, too few for a variance; decrease MODEL.BN_GROUPS"
            )
        self.num_batches_tracked.add_(1)
        batch_norm = choose(x, self.weight)
        statistics = self.running_mean, self.running_var
        return batch_norm(x, self.weight, self.bias, *statistics, self.num_groups, self.momentum, self.eps)

    def extra_repr(self) -> str:
        """Return the description of the layer that ``print(model)`` shows."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}"
