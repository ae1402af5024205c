"""End-to-end contrast: the keys are the samples of the same batch (figure 2a)."""

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
    """Queries against the keys of the same global batch; back-propagation updates the encoders of both.

    In the paper the two encoders may be the same or different; here they are different, as in its figure, and start
    equal. With WN images in the global batch, K = WN - 1. State: ``encoder_q.*`` and ``encoder_k.*``.

    Args:
        encoder: f_q, images to N x C vectors. f_k starts as its exact copy and also learns.
        shuffle: moves key images between devices or batch-norm groups (section 3.3).
        temperature: tau of equation 1.
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
        """Return ln(WN) and 1/WN, for the keys in the global batch."""
        return chance_among(cfg.SOLVER.IMS_PER_BATCH)

    def extra_state(self) -> dict[str, BatchShuffle]:
        """Return the generator of Shuffling BN."""
        return {"shuffle": self.shuffle}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one step, without the optimizer.

        Args:
            batch: ``"query"`` and ``"key"``, N x 3 x H x W each, two views of the same images.

        Returns:
            ``"loss"``, InfoNCE (a scalar with gradient to both encoders; averaged over processes, as by
            ``DistributedDataParallel``, the gradient is that of the mean over the global batch); ``"accuracy"``, the
            share of queries that find their key in the global batch; and their ``"spread"``, see `spread`.
        """
        q = embed(self.encoder_q, batch["query"])  # N x C
        k = embed_shuffled(self.encoder_k, batch["key"], self.shuffle)  # WN x C
        logits = self.logits(q, k)
        own = torch.arange(len(q), device=q.device) + self.shuffle.first_row(len(q))
        accuracy = contrast_accuracy(logits.detach(), own)
        return {"loss": info_nce(logits, own), "accuracy": accuracy, "spread": spread(q)}

    def logits(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Return similarities over tau, N x WN, of queries ``q`` (N x C) with the global batch's keys (WN x C)."""
        # As in MoCo: reduced precision would round away the differences of similarities.
        with torch.autocast(q.device.type, enabled=False):
            return q @ k.T / self.temperature
