"""InfoNCE and the accuracy of the pretext task, the same for every way of keeping keys."""

import torch
import torch.nn.functional as F


def info_nce(logits: torch.Tensor, positive: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean InfoNCE loss (equation 1), a scalar.

    Args:
        logits: N x (1+K), similarities divided by the temperature.
        positive: N, int64, the column of each row that holds the positive key's; column 0 in all rows when not given.
    """
    if positive is None:
        positive = logits.new_zeros(len(logits), dtype=torch.long)
    return F.cross_entropy(logits, positive)


def contrast_accuracy(logits: torch.Tensor, positive: torch.Tensor | None = None) -> torch.Tensor:
    """Return the share, 0 to 1, of the rows that pick the positive key out of K+1; arguments as of `info_nce`."""
    return (logits.argmax(dim=1) == (0 if positive is None else positive)).float().mean()
