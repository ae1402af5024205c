"""Synchronised batch normalisation on any device. Only this module depends on which layer supports which device."""

import torch
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import nn


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """Computes on CPU processes, connected with gloo, what ``torch.nn.SyncBatchNorm`` computes on GPUs.

    In training, the mean and the variance are computed over all samples of all processes, with equal weight for each
    value. The result therefore equals ``BatchNorm2d`` on the concatenated batch, even if the processes have different
    numbers of images or ROIs (or none) or images of different sizes. With one process, and in evaluation, it *is*
    ``BatchNorm2d``. Parameter and buffer names are those of ``BatchNorm2d``.

    detectron2's ``NaiveSyncBatchNorm`` is not used because it weights processes (or images) instead of values, rejects
    or approximates uneven batches, stores the biased variance and, under bfloat16 autocast, reduces in bfloat16, in
    which counts above 256 are no longer exact.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N x C x H x W). Every process must call this, even with N = 0."""
        if not self.training or comm.get_world_size() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise_over_processes(x.float()).to(x.dtype)

    def _normalise_over_processes(self, x: torch.Tensor) -> torch.Tensor:
        local_count = x.new_full((1,), x.shape[0] * x.shape[2] * x.shape[3])
        sums = differentiable_all_reduce(torch.cat([x.sum((0, 2, 3)), local_count]))  # C + 1
        count = sums[-1].detach()
        mean = sums[:-1] / count.clamp(min=1)  # C
        # Use two passes, because E[x^2] - E[x]^2 loses all precision if the mean is large compared to the spread.
        centred = x - mean[:, None, None]
        variance = differentiable_all_reduce(centred.square().sum((0, 2, 3))) / count.clamp(min=1)  # C
        if count > 0:
            with torch.no_grad():
                unbiased = variance * (count / (count - 1).clamp(min=1))
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
                self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


def adapt_norms_to_device(model: nn.Module) -> nn.Module:
    """Replace every ``SyncBatchNorm`` of a CPU model with ``CPUSyncBatchNorm``, and return the model.

    ``SyncBatchNorm`` does not accept CPU tensors once a process group exists. Because it is replaced in the built
    model, a config can specify ``SyncBN`` wherever it means synchronised statistics (``MODEL.RESNETS.NORM``,
    ``MODEL.FPN.NORM``, a head's ``NORM``), and it runs unchanged on one or multiple CPU processes or on GPUs.
    Parameters and buffers are the same tensors under the same names as before, so a checkpoint fits both models.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.SyncBatchNorm) and not child.weight.is_cuda:
                replacement = CPUSyncBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
                for own, tensor in [*child.named_parameters(), *child.named_buffers()]:
                    setattr(replacement, own, tensor)
                setattr(parent, name, replacement.train(child.training))
    return model
