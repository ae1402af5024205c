"""InfoNCE and the accuracy of the pretext task, the same for every way of keeping keys."""

import torch
import torch.nn.functional as F


def info_nce(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean InfoNCE loss (equation 1), a scalar.

    Args:
        logits: N x (1+K), similarities divided by the temperature; column 0 holds the positive key's.
    """
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def contrast_accuracy(logits: torch.Tensor) -> torch.Tensor:
    """Return the share, 0 to 1, of the rows of ``logits`` (N x (1+K)) that pick the positive key out of K+1."""
    return (logits.argmax(dim=1) == 0).float().mean()
