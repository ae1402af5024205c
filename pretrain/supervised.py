"""Supervised training of the same encoders, and fine-tuning them for classification (section 4.2 and appendix)."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.encoder_file import extract_encoder
from mocodet.common.text import first_few


class SupervisedClassifier(nn.Module):
    """A ResNet whose last layer tells classes apart, with cross-entropy: what contrast is compared with.

    Batch-norm statistics are those of this process's images, as in torchvision's training and in the paper's supervised
    baseline. State, under names that the converter knows: ``encoder.*``; the classifier is ``encoder.fc``.

    Args:
        encoder: images, N x 3 x H x W, to a logit for each class, N x C.
    """

    views = ("image",)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Make one step short of the optimizer's.

        Args:
            batch: ``"image"``, N x 3 x H x W, and ``"label"``, N, int64, in [0, C).

        Returns:
            ``"loss"``, cross-entropy (scalar, with gradient), and ``"accuracy"``, the share of images whose class has
            the highest logit.
        """
        labels = batch["label"]
        logits = self.encoder(batch["image"]).float()  # N x C; the loss is float32 whatever the encoder ran in
        loss = F.cross_entropy(logits, labels)
        return {"loss": loss, "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()}


def load_encoder(network: nn.Module, path: str | PathLike) -> None:
    """Start the backbone of ``network`` from the encoder in a checkpoint; its classifier ``fc`` stays as it is.

    Args:
        network: a ResNet with torchvision's names; changed in place.
        path: any checkpoint that the converter reads: of pre-training (a MoCo checkpoint's query encoder), of
            supervised training, or torchvision's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no encoder that is whole and finite, or one of another architecture or stem.
    """
    checkpoint = _load_checkpoint(path)
    try:
        encoder = extract_encoder(checkpoint)
    except ValueError as error:
        raise ValueError(f"MODEL.WEIGHTS {path}: {error}") from error
    # Batch counters are not part of an encoder; nothing reads them.
    own = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
    }
    if misfits := _misfits(own, encoder.tensors):
        raise ValueError(
            f"MODEL.WEIGHTS {path} holds a {encoder.arch}, which is not this config's network: {first_few(misfits)}"
            f" differ; set MODEL.ARCH {encoder.arch} MODEL.SMALL_STEM {encoder.small_stem}"
        )
    _copy(own, encoder.tensors)


def load_classifier(network: nn.Module, path: str | PathLike) -> int:
    """Fill ``network``, classifier and all, from a checkpoint of supervised training or one of torchvision's own.

    Returns:
        after how many iterations the checkpoint was written; 0 where it does not say so.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no classifier, or one of another architecture or number of classes.
    """
    checkpoint = _load_checkpoint(path)
    content = checkpoint if isinstance(checkpoint, Mapping) else {}
    state = content["model"] if isinstance(content.get("model"), Mapping) else content
    found = {
        name.removeprefix("encoder."): tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)
    }
    own = network.state_dict()
    if misfits := _misfits(own, found):
        raise ValueError(
            f"MODEL.WEIGHTS {path} is not the whole of this config's classifier: {first_few(misfits)} differ; expected"
            f" a checkpoint of METHOD supervised with {own['fc.bias'].numel()} classes and this MODEL.ARCH, such as"
            " OUTPUT_DIR/model_final.pth"
        )
    _copy(own, found)
    return content.get("iteration", -1) + 1


def _load_checkpoint(path: str | PathLike) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"MODEL.WEIGHTS names {path}, which does not exist; give a checkpoint of tools/pretrain_net.py, or '' to"
            " start from random weights"
        )
    if Path(path).suffix == ".pkl":
        raise ValueError(
            f"MODEL.WEIGHTS {path}: a .pkl is converted for detectron2; give the checkpoint that it was made from"
        )
    return load_torch_file(path)


def _misfits(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    """Name the tensors that only one side has, or that have another shape on the other."""
    missing = [name for name in own if name not in found]
    unknown = [name for name in found if name not in own]
    return missing + unknown + [name for name in own if name in found and own[name].shape != found[name].shape]


@torch.no_grad()
def _copy(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in own.items():  # tensors of a state dict share memory with their module's
        tensor.copy_(found[name])
