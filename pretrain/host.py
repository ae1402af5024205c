"""Copying small tensors from the CPU to the training device."""

import torch


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to ``device`` without waiting for the device's pending work.

    A copy from pageable memory would synchronise the CPU with a GPU in every step. Pinned memory comes from PyTorch's
    cache, which does not reuse it before the copy is done.
    """
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)
