"""The layer for grouped batch norm."""

import torch
from torch import nn

from .choice import choose


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises ``num_groups`` equal, contiguous parts of the batch separately in training.

    Parameters, buffers and evaluation are those of `nn.BatchNorm2d`; each batch updates the running statistics once,
    with the mean of the groups' statistics.

    Args:
        num_features: channels C of an input N x C x H x W.
        num_groups: groups G.

    Raises:
        ValueError: in training, when N is not a multiple of G, or a group has a single value of each channel.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def __init__(self, num_features: int, num_groups: int) -> None:
        super().__init__(num_features)
        self.num_groups = num_groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N x C x H x W), by groups in training and by the running statistics in evaluation."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        if len(x) % self.num_groups:
            raise ValueError(
                f"a batch of {len(x)} does not divide into {self.num_groups} batch-norm groups; set MODEL.BN_GROUPS"
            )
        if x.numel() < 2 * self.num_groups * self.num_features:
            raise ValueError(
                f"{tuple(x.shape)} in {self.num_groups} batch-norm groups leaves each group less than two values of a"
                " channel; a variance needs two or more: set a smaller MODEL.BN_GROUPS"
            )
        self.num_batches_tracked.add_(1)
        batch_norm = choose(x, self.weight)
        statistics = self.running_mean, self.running_var
        return batch_norm(x, self.weight, self.bias, *statistics, self.num_groups, self.momentum, self.eps)

    def extra_repr(self) -> str:
        """Describe the layer in ``print(model)``."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}"
