"""Copies small tensors from the CPU to the training device."""

import torch


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to ``device`` without waiting for pending work on the device.

    Copying from pageable memory would synchronise the CPU with the GPU in every step. Pinned memory is allocated from
    PyTorch's cache, which does not reuse it until the copy has finished.
    """
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)
