"""InfoNCE and the accuracy of the pretext task, for all contrastive methods."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Similarities that are computed at a time. On a CPU, 256 x 2048 of them (2 MiB) and their keys fit into the caches; a
# GPU needs large products and has the memory for them.
CPU_ROWS, CPU_COLUMNS = 256, 2048
GPU_BYTES = 256 * 2**20


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
    """Return the share, 0 to 1, of the rows that pick the positive key among K+1; arguments as for `info_nce`."""
    return (logits.argmax(dim=1) == (0 if positive is None else positive)).float().mean()


def chance_among(candidates: int) -> dict[str, float]:
    """Return ``"loss"`` and ``"accuracy"`` of a random guess among n keys or classes: ln(n) and 1/n."""
    return {"loss": math.log(candidates), "accuracy": 1 / candidates}


def queue_info_nce(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrast each query with its key and with a queue: `info_nce` and `contrast_accuracy` of N x (1+K) logits.

    The matrix of logits is never stored. The queue is read once, in blocks, and the gradient is computed at the same
    time, so that the queue may be overwritten before backward.

    Args:
        q: queries, N x C, float32 (without autocast: similarities of unit vectors differ in the third digit, which
            reduced precision would round away).
        k: their positive keys, N x C.
        queue: negative keys, C x K; it gets no gradient.
        temperature: tau of equation 1.

    Returns:
        The mean loss, with gradient to ``q`` and ``k``, and the share, 0 to 1, of the queries that find their key.

    Raises:
        ValueError: the shapes do not match.
    """
    if q.shape != k.shape or q.ndim != 2 or queue.ndim != 2 or q.shape[1] != queue.shape[0]:
        raise ValueError(
            f"queries are {tuple(q.shape)}, keys {tuple(k.shape)} and the queue {tuple(queue.shape)}; expected N x C,"
            " N x C and C x K"
        )
    loss, accuracy = _QueueInfoNCE.apply(q, k, queue, temperature)
    return loss, accuracy


class _QueueInfoNCE(torch.autograd.Function):
    """Softmax over K+1 with a running maximum, as in Milakov and Gimelshein (2018) and FlashAttention.

    With p the softmax of query i over its key (p_0) and the queue, the gradient of the loss of i with respect to q_i is
    (sum_j p_j k_j - k_0) / tau, and with respect to k_0 it is (p_0 - 1) q_i / tau. The sum accumulates together with
    the normaliser.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(q.device.type, enabled=False):
            scaled = q / temperature
            positive = (scaled * k).sum(dim=1, keepdim=True)  # N x 1, like the next two
            maximum, normaliser, weighted_keys = positive.clone(), torch.ones_like(positive), k.clone()
            rows, columns = _block_shape(scaled)
            state = scaled, maximum, normaliser, weighted_keys
            for keys in queue.split(columns, dim=1):
                for part in zip(*(tensor.split(rows) for tensor in state), strict=True):
                    _add_keys(keys, *part)
            losses = maximum + normaliser.log() - positive
            scale = 1 / (temperature * len(q))
            by_q = weighted_keys.div_(normaliser).sub_(k).mul_(scale)
            by_k = torch.expm1(-losses) * scale * q if ctx.needs_input_grad[1] else None
            ctx.save_for_backward(by_q, by_k)
            # The positive is column 0 of the logits, which argmax prefers on ties.
            accuracy = (maximum == positive).float().mean()
            ctx.mark_non_differentiable(accuracy)
            return losses.mean(), accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_q, by_k = ctx.saved_tensors
        return gradient * by_q, None if by_k is None else gradient * by_k, None, None


def _add_keys(
    keys: torch.Tensor,
    scaled: torch.Tensor,
    maximum: torch.Tensor,
    normaliser: torch.Tensor,
    weighted_keys: torch.Tensor,
) -> None:
    """Add keys to the softmax of queries; its running values change in place.

    Args:
        keys: C x B. scaled: n x C, the queries divided by tau.
        maximum: n x 1, the largest logit so far.
        normaliser: n x 1, the sum of exp(logit - maximum). weighted_keys: n x C, the sum of these times their keys.
    """
    logits = scaled @ keys
    larger = torch.maximum(maximum, logits.amax(dim=1, keepdim=True))
    shrink = (maximum - larger).exp_()
    weights = logits.sub_(larger).exp_()  # in place: the only matrix of this size
    normaliser.mul_(shrink).add_(weights.sum(dim=1, keepdim=True))
    weighted_keys.mul_(shrink).add_(weights @ keys.T)
    maximum.copy_(larger)


def _block_shape(q: torch.Tensor) -> tuple[int, int]:
    """Return the number of rows and columns of the similarities of ``q`` (N x C) that are computed at a time."""
    if q.device.type == "cpu":
        return CPU_ROWS, CPU_COLUMNS
    return len(q), max(1, GPU_BYTES // (len(q) * q.element_size()))
