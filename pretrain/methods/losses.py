"""InfoNCE and the accuracy of the pretext task, shared by all contrastive methods."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Number of similarities to compute at once. On a CPU, 256 x 2048 of them (2 MiB) and their keys fit into the caches. A
# GPU needs large products and has enough memory for them.
CPU_ROWS, CPU_COLUMNS = 256, 2048
GPU_BYTES = 256 * 2**20


def info_nce(logits: torch.Tensor, positive: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean InfoNCE loss (equation 1), a scalar.

    Args:
        logits: similarities divided by the temperature, N x (1+K).
        positive: column of the positive key in each row, N, int64. By default, the positive key is in column 0.
    """
    if positive is None:
        positive = logits.new_zeros(len(logits), dtype=torch.long)
    return F.cross_entropy(logits, positive)


def contrast_accuracy(logits: torch.Tensor, positive: torch.Tensor | None = None) -> torch.Tensor:
    """Return the fraction of rows in which the positive key has the highest of K+1 logits. See `info_nce` for args."""
    return (logits.argmax(dim=1) == (0 if positive is None else positive)).float().mean()


def chance_among(candidates: int) -> dict[str, float]:
    """Return ``"loss"`` and ``"accuracy"`` of a random guess among n keys or classes: ln(n) and 1/n."""
    return {"loss": math.log(candidates), "accuracy": 1 / candidates}


def queue_info_nce(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrast each query with its key and a queue, like `info_nce` and `contrast_accuracy` on N x (1+K) logits.

    The matrix of logits is never stored. The queue is read once, in blocks, and the gradient is computed in the same
    pass, which allows the queue to be overwritten before the backward pass.

    Args:
        q: queries, N x C, float32. Autocast must be off, because similarities of unit vectors differ in the third
            digit, which reduced precision would round away.
        k: positive keys of the queries, N x C.
        queue: negative keys, C x K. It receives no gradient.
        temperature: tau in equation 1.

    Returns:
        the mean loss, with gradients for ``q`` and ``k``, and the fraction of queries that find their key.

    Raises:
        ValueError: the shapes do not match.
    """
    if q.shape != k.shape or q.ndim != 2 or queue.ndim != 2 or q.shape[1] != queue.shape[0]:
        raise ValueError(
            f"queries have shape {tuple(q.shape)}, keys {tuple(k.shape)} and the queue {tuple(queue.shape)}; expected"
            " N x C, N x C and C x K"
        )
    loss, accuracy = _QueueInfoNCE.apply(q, k, queue, temperature)
    return loss, accuracy


class _QueueInfoNCE(torch.autograd.Function):
    """Softmax over K+1 logits with a running maximum, as in Milakov and Gimelshein (2018) and FlashAttention.

    Let p be the softmax of query i over its key (p_0) and the queue. The gradient of the loss of i is
    (sum_j p_j k_j - k_0) / tau with respect to q_i, and (p_0 - 1) q_i / tau with respect to k_0. The sum is accumulated
    together with the normaliser.
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
            # The positive corresponds to column 0 of the logits, which argmax prefers in case of a tie.
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
    """Add keys to the softmax of queries, updating its running values in place.

    Args:
        keys: the keys to add, C x B.
        scaled: queries divided by tau, n x C.
        maximum: largest logit so far, n x 1.
        normaliser: sum of exp(logit - maximum), n x 1.
        weighted_keys: sum of keys weighted with exp(logit - maximum), n x C.
    """
    logits = scaled @ keys
    larger = torch.maximum(maximum, logits.amax(dim=1, keepdim=True))
    shrink = (maximum - larger).exp_()
    weights = logits.sub_(larger).exp_()  # in place, because this is the only matrix of this size
    normaliser.mul_(shrink).add_(weights.sum(dim=1, keepdim=True))
    weighted_keys.mul_(shrink).add_(weights @ keys.T)
    maximum.copy_(larger)


def _block_shape(q: torch.Tensor) -> tuple[int, int]:
    """Return the number of rows and columns of the similarities of ``q`` (N x C) to compute at once."""
    if q.device.type == "cpu":
        return CPU_ROWS, CPU_COLUMNS
    return len(q), max(1, GPU_BYTES // (len(q) * q.element_size()))
