"""The reference for a step: MoCo as in the original code, written plainly from the paper (algorithm 1).

It uses float32, the channels-first format, and one batch norm over all images of a process. Parameters are updated one
by one, and every process gathers all key images to shuffle them. It shares no code with `mocodet.pretrain.methods`,
which makes the comparison independent. A test checks that both implementations learn the same.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torchvision import models


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate ``rows`` (N x ...) of all processes without gradient. A single process returns its own rows."""
    if not dist.is_initialized():
        return rows
    everywhere = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, rows)
    return torch.cat(everywhere)


def shuffle_by_gathering(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every process random images of the global batch (section 3.3) by gathering all images in all processes.

    Args:
        images: images of this process, N x 3 x H x W.

    Returns:
        the shuffled images, N x 3 x H x W, and the index of each image of the global batch in the shuffled order.
    """
    everything = gather(images)
    order = torch.randperm(len(everything), device=images.device)
    rank = 0
    if dist.is_initialized():
        dist.broadcast(order, src=0)
        rank = dist.get_rank()
    return everything[order.view(-1, len(images))[rank]], torch.argsort(order)


def unshuffle_by_gathering(keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the keys (N x C) of shuffled images in the order of this process's original images."""
    everything = gather(keys)
    rank = dist.get_rank() if dist.is_initialized() else 0
    return everything[places.view(-1, len(keys))[rank]]


class PlainMoCo(nn.Module):
    """MoCo v2: two torchvision ResNets with MLP heads and a queue, with the parameter names of the original code.

    Args:
        arch: name of a torchvision ResNet.
        dim: C, the dimension of the keys.
        queue_size: K, the length of the queue.
        momentum: m in equation 2.
        temperature: tau in equation 1.
    """

    queue: torch.Tensor
    queue_ptr: torch.Tensor

    def __init__(
        self, arch: str, *, dim: int = 128, queue_size: int = 65536, momentum: float = 0.999, temperature: float = 0.2
    ) -> None:
        super().__init__()
        self.momentum, self.temperature, self.queue_size = momentum, temperature, queue_size
        self.encoder_q, self.encoder_k = (models.get_model(arch, num_classes=dim) for _ in range(2))
        for encoder in (self.encoder_q, self.encoder_k):
            width = encoder.fc.in_features
            encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
        for theta_q, theta_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            theta_k.data.copy_(theta_q.data)
            theta_k.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue_size), dim=0))  # C x K
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, N x (1+K), and the labels, N zeros, for two views, N x 3 x H x W each."""
        q = F.normalize(self.encoder_q(query), dim=1)
        with torch.no_grad():
            for theta_q, theta_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                theta_k.data = theta_k.data * self.momentum + theta_q.data * (1 - self.momentum)
            shuffled, places = shuffle_by_gathering(key)
            k = F.normalize(self.encoder_k(shuffled), dim=1)
            k = unshuffle_by_gathering(k, places)
        positive = torch.einsum("nc,nc->n", q, k).unsqueeze(1)
        negative = torch.einsum("nc,ck->nk", q, self.queue.clone().detach())
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        self.enqueue(k)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Replace the oldest keys in the queue with ``keys`` from all processes. Their number must divide K."""
        keys = gather(keys)
        place = int(self.queue_ptr)
        self.queue[:, place : place + len(keys)] = keys.T
        self.queue_ptr[0] = (place + len(keys)) % self.queue_size


def top_accuracies(logits: torch.Tensor, labels: torch.Tensor, ranks: Sequence[int] = (1, 5)) -> list[float]:
    """Return, for each of ``ranks``, the percentage of rows whose label is among that many highest-scoring classes."""
    order = logits.topk(max(ranks), dim=1).indices
    correct = order == labels.unsqueeze(1)
    return [100 * correct[:, :rank].any(dim=1).float().mean().item() for rank in ranks]


class PlainStep:
    """A training iteration of the original code: logits, loss, accuracies for the log, gradients, and SGD.

    Args:
        model: the model to train.
        lr: learning rate of SGD, with momentum 0.9 and weight decay 1e-4.
        dtype: precision for autocast. float32 disables autocast.
    """

    def __init__(self, model: PlainMoCo, lr: float = 0.03, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = model.train(), dtype
        self.optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)

    def __call__(self, query: torch.Tensor, key: torch.Tensor) -> float:
        """Run the step on two views, N x 3 x H x W each, and return the loss."""
        with torch.autocast(query.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits, labels = self.model(query, key)
            loss = F.cross_entropy(logits, labels)
        top_accuracies(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
