"""Supervised training of the encoders, and fine-tuning them for classification (section 4.2 and appendix)."""

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.encoders.resnet import build_resnet

from .base import DataFacts, Method
from .losses import chance_among


class SupervisedClassifier(Method, name="supervised"):
    """A ResNet classifier trained with cross-entropy, the baseline for the contrastive methods.

    Batch-norm statistics are computed over the images of each process, as in torchvision's training script and in the
    paper's supervised baseline. State, with names that the converter recognises: ``encoder.*``, where ``encoder.fc`` is
    the classifier.

    Args:
        encoder: maps images, N x 3 x H x W, to class logits, N x C.
    """

    views = ("image",)
    classifies = True
    encoder_name = "encoder"

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @classmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "SupervisedClassifier":
        """Build a classifier for the classes in the data."""
        model = cfg.MODEL
        return cls(build_resnet(model.ARCH, small_stem=model.SMALL_STEM, num_classes=len(data.classes)))

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return ln(C) and 1/C, the chance levels for C classes."""
        return chance_among(len(data.classes))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one training step, excluding the optimizer.

        Args:
            batch: ``"image"``, N x 3 x H x W, and ``"label"``, N, int64, in [0, C).

        Returns:
            ``"loss"``, the cross-entropy (a scalar with gradients), and ``"accuracy"``, the fraction of images whose
            class has the highest logit.
        """
        labels = batch["label"]
        logits = self.encoder(batch["image"]).float()  # N x C; the loss is computed in float32
        loss = F.cross_entropy(logits, labels)
        return {"loss": loss, "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()}
