"""End-to-end contrast, which uses the samples of the same batch as keys (figure 2a)."""

import copy

import torch
from fvcore.common.config import CfgNode
from torch import nn

from .base import DataFacts, Method
from .encoding import embed, embed_shuffled, spread
from .heads import CONTRAST_KEYS, encoder_from_config
from .losses import chance_among, contrast_accuracy, info_nce
from .shuffle_bn import SHUFFLE_BN, BatchShuffle


class EndToEnd(Method, name="end_to_end"):
    """Contrasts queries with the keys of the same global batch and trains both encoders by back-propagation.

    The paper allows the two encoders to be the same or different. Here they are different, as in its figure, and start
    with equal weights. With WN images in the global batch, K = WN - 1. State: ``encoder_q.*`` and ``encoder_k.*``.

    Args:
        encoder: f_q, which maps images to N x C vectors. f_k starts as an exact copy and is also trained.
        shuffle: moves key images between devices or batch-norm groups (section 3.3).
        temperature: tau in equation 1.
    """

    views = ("query", "key")
    encoder_copies = ("encoder_k",)
    keys = CONTRAST_KEYS | {"CONTRAST.SHUFFLE_BN": SHUFFLE_BN}

    def __init__(self, encoder: nn.Module, shuffle: BatchShuffle, *, temperature: float = 0.07) -> None:
        super().__init__()
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder)
        self.shuffle = shuffle
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "EndToEnd":
        """Build both encoders."""
        return cls(encoder_from_config(cfg), BatchShuffle.from_config(cfg), temperature=cfg.CONTRAST.TEMPERATURE)

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return ln(WN) and 1/WN, the chance levels for the keys in the global batch."""
        return chance_among(cfg.SOLVER.IMS_PER_BATCH)

    def extra_state(self) -> dict[str, BatchShuffle]:
        """Return the random generator of Shuffling BN."""
        return {"shuffle": self.shuffle}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one training step, excluding the optimizer.

        Args:
            batch: ``"query"`` and ``"key"``, N x 3 x H x W each, two views of the same images.

        Returns:
            ``"loss"``, the InfoNCE loss (a scalar with gradients for both encoders, which are those of the mean over
            the global batch once ``DistributedDataParallel`` has averaged them over processes); ``"accuracy"``, the
            fraction of queries that find their key in the global batch; and ``"spread"``, see `spread`.
        """
        q = embed(self.encoder_q, batch["query"])  # N x C
        k = embed_shuffled(self.encoder_k, batch["key"], self.shuffle)  # WN x C
        logits = self.logits(q, k)
        own = torch.arange(len(q), device=q.device) + self.shuffle.first_row(len(q))
        accuracy = contrast_accuracy(logits.detach(), own)
        return {"loss": info_nce(logits, own), "accuracy": accuracy, "spread": spread(q)}

    def logits(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Return the similarities, N x WN, of queries ``q`` (N x C) and all keys ``k`` (WN x C), divided by tau."""
        # As in MoCo, use float32, because reduced precision would round away small differences between similarities.
        with torch.autocast(q.device.type, enabled=False):
            return q @ k.T / self.temperature
