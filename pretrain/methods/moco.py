"""Momentum Contrast, which uses a queue of keys and a momentum encoder (section 3.2, algorithm 1)."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from ..keys import SHARE, Key, at_least, one_of
from .base import DataFacts, Method
from .encoding import embed, embed_shuffled, spread
from .heads import CONTRAST_KEYS, encoder_from_config
from .losses import chance_among, contrast_accuracy, queue_info_nce
from .shuffle_bn import SHUFFLE_BN, BatchShuffle

MOMENTUM_SCHEDULES = ("constant", "cosine")


class MomentumContrast(Method, name="moco"):
    """MoCo: contrasts queries with a queue of keys from a slowly moving copy of the query encoder.

    State, with the names used in the original checkpoints: ``encoder_q.*``, ``encoder_k.*``, ``queue`` (C x K) and
    ``queue_ptr`` (1, the column for the next key).

    Args:
        encoder: f_q, which maps images to N x C vectors. f_k starts as an exact copy and receives no gradient.
        shuffle: moves key images between devices or batch-norm groups (section 3.3).
        queue_size: K. It need not be a multiple of the batch size: the queue wraps around without losing any keys.
        dim: C, the output dimension of the encoder.
        momentum: m in equation 2, at the start of a run.
        momentum_schedule: ``"constant"`` or ``"cosine"``; see `begin_step`.
        temperature: tau in equation 1.
    """

    queue: torch.Tensor
    queue_ptr: torch.Tensor
    views = ("query", "key")
    encoder_copies = ("encoder_k",)
    keys = CONTRAST_KEYS | {
        "CONTRAST.SHUFFLE_BN": SHUFFLE_BN,
        "CONTRAST.QUEUE_SIZE": Key(65536, "K, the number of keys in the queue.", at_least(1)),
        "CONTRAST.MOMENTUM": Key(0.999, "m, the momentum with which the key encoder is updated.", SHARE),
        "CONTRAST.MOMENTUM_SCHEDULE": Key(
            "constant",
            "Schedule of the momentum. 'constant' is that of MoCo. 'cosine' increases it from MOMENTUM to 1 along a"
            " half cosine, as in BYOL.",
            one_of(*MOMENTUM_SCHEDULES),
        ),
    }

    def __init__(
        self,
        encoder: nn.Module,
        shuffle: BatchShuffle,
        *,
        queue_size: int = 65536,
        dim: int = 128,
        momentum: float = 0.999,
        momentum_schedule: str = "constant",
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder)
        self.encoder_k.requires_grad_(False)
        self.shuffle = shuffle
        self.queue_size = queue_size
        self.base_momentum = self.momentum = momentum
        self.momentum_schedule = momentum_schedule
        self.temperature = temperature
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue_size), dim=0))  # C x K
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @classmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "MomentumContrast":
        """Build the encoders and the queue."""
        return cls(encoder_from_config(cfg), BatchShuffle.from_config(cfg), **cls.options(cfg))

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the keyword arguments from the config."""
        return {
            "queue_size": cfg.CONTRAST.QUEUE_SIZE,
            "dim": cfg.MODEL.DIM,
            "momentum": cfg.CONTRAST.MOMENTUM,
            "momentum_schedule": cfg.CONTRAST.MOMENTUM_SCHEDULE,
            "temperature": cfg.CONTRAST.TEMPERATURE,
        }

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return the chance levels ln(K+1) and 1/(K+1), and 1/N for the keys in the batch of this process."""
        in_batch = comm.get_world_size() / cfg.SOLVER.IMS_PER_BATCH
        return {**chance_among(cfg.CONTRAST.QUEUE_SIZE + 1), "accuracy_in_batch": in_batch}

    def extra_state(self) -> dict[str, BatchShuffle]:
        """Return the random generator of Shuffling BN."""
        return {"shuffle": self.shuffle}

    def to_fill(self) -> dict[str, int]:
        """Return the length of the queue."""
        return {"queue": self.queue_size}

    @torch.no_grad()
    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Add the keys of a batch to the queue. The query encoder does not run, so its statistics do not change."""
        _, all_keys = self.encode_keys(batch["key"])
        self.dequeue_and_enqueue(all_keys, self.queue, self.queue_ptr)

    def begin_step(self, iteration: int, max_iter: int) -> None:
        """Set m. The "cosine" schedule is 1 - (1 - m_0) (1 + cos(pi iteration / max_iter)) / 2 (BYOL, section 3.3)."""
        if self.momentum_schedule == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * iteration / max_iter))
            self.momentum = 1 - (1 - self.base_momentum) * left

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one training step of algorithm 1, excluding the optimizer.

        Args:
            batch: ``"query"`` and ``"key"``, N x 3 x H x W each, two views of the same images.

        Returns:
            ``"loss"``, the InfoNCE loss (a scalar with gradients for ``encoder_q``); ``"accuracy"``, the fraction of
            queries that find their key among K+1; ``"accuracy_in_batch"``, the fraction that find it among the N keys
            of this process; and ``"spread"``, see `spread`. If the encoders change quickly, a query can recognise its
            key in the queue merely by its age. In this case, the first accuracy is high, but the second, which compares
            keys of the same age, is at chance level.
        """
        q = embed(self.encoder_q, batch["query"])  # N x C
        with torch.no_grad():
            self.momentum_update()
            k, all_keys = self.encode_keys(batch["key"])  # N x C, WN x C
        return self.contrast(q, k, all_keys)

    def contrast(self, q: torch.Tensor, k: torch.Tensor, all_keys: torch.Tensor) -> dict[str, torch.Tensor]:
        """Contrast queries (N x C) with their keys (N x C) and the queue, then enqueue the global keys (WN x C)."""
        loss, accuracy = queue_info_nce(q, k, self.queue, self.temperature)
        self.dequeue_and_enqueue(all_keys, self.queue, self.queue_ptr)
        in_batch = self.accuracy_in_batch(q.detach(), k)
        return {"loss": loss, "accuracy": accuracy, "accuracy_in_batch": in_batch, "spread": spread(q)}

    @staticmethod
    def accuracy_in_batch(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Return the fraction of queries (N x C) that find their key among the keys of the batch (N x C)."""
        with torch.autocast(q.device.type, enabled=False):
            return contrast_accuracy(q @ k.T, torch.arange(len(q), device=q.device))

    @torch.no_grad()
    def momentum_update(self) -> None:
        """Update f_k by theta_k <- m theta_k + (1 - m) theta_q (equation 2). Buffers are not updated."""
        move_towards(self.encoder_k, self.encoder_q, 1 - self.momentum)

    @torch.no_grad()
    def encode_keys(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode key images in shuffled order.

        Args:
            images: images of this process, N x 3 x H x W.

        Returns:
            the keys of this process, N x C, and of the global batch, WN x C, both in the original order of the images.
        """
        all_keys = embed_shuffled(self.encoder_k, images, self.shuffle)
        first = self.shuffle.first_row(len(images))
        return all_keys[first : first + len(images)], all_keys

    @staticmethod
    @torch.no_grad()
    def dequeue_and_enqueue(keys: torch.Tensor, queue: torch.Tensor, queue_ptr: torch.Tensor) -> None:
        """Replace the oldest keys in a queue (C x K) with ``keys`` (N x C) of the global batch; wrap around at the end.

        If the batch is larger than the queue, only its last K keys are kept.

        Args:
            keys: the new keys, N x C.
            queue: the queue, C x K, modified in place.
            queue_ptr: column of the oldest key, 1, advanced in place.
        """
        queue_size = queue.shape[1]
        newest = keys[-queue_size:]
        # Only the newest keys are written, because the end of the batch would overwrite earlier ones. The pointer stays
        # on its device: reading it would make the CPU wait for the GPU.
        places = torch.arange(len(keys) - len(newest), len(keys), device=keys.device)
        queue[:, (queue_ptr + places) % queue_size] = newest.T
        queue_ptr.add_(len(keys)).remainder_(queue_size)


@torch.no_grad()
def move_towards(follower: nn.Module, leader: nn.Module, weight: float) -> None:
    """Move each parameter of ``follower`` towards that of ``leader`` by the fraction ``weight`` (0 to 1)."""
    theta_k, theta_q = (tuple(module.parameters()) for module in (follower, leader))
    torch._foreach_lerp_(theta_k, theta_q, weight)  # few kernel launches on CUDA instead of one per parameter
