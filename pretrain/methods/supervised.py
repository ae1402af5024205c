"""Supervised training of the same encoders, and fine-tuning them for classification (section 4.2 and appendix)."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.encoders.reading import BATCH_COUNTER, DISTRIBUTED_PREFIX, STATE_KEYS, extract_encoder
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
    checkpoint = _named_by_config(path)
    try:
        encoder = extract_encoder(checkpoint)
    except ValueError as error:
        raise ValueError(f"MODEL.WEIGHTS {path}: {error}") from error
    own = _without_counters(network.state_dict())
    own = {name: tensor for name, tensor in own.items() if not name.startswith("fc.")}
    if misfits := _misfits(own, encoder.tensors):
        raise ValueError(
            f"MODEL.WEIGHTS {path} holds a {encoder.arch}, which is not this config's network: {first_few(misfits)}"
            f" differ; set MODEL.ARCH {encoder.arch} MODEL.SMALL_STEM {encoder.small_stem}"
        )
    _copy(own, encoder.tensors)


def load_classifier(network: nn.Module, path: str | PathLike) -> int:
    """Fill ``network``, classifier and all, from a checkpoint of supervised training or one of torchvision's own.

    Batch counters stay as they are: nothing reads them, and torchvision's older files have none.

    Returns:
        after how many iterations the checkpoint was written; 0 where it does not say so.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no classifier, or one of another architecture or number of classes.
    """
    checkpoint = _named_by_config(path)
    content = checkpoint if isinstance(checkpoint, Mapping) else {}
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    found = {
        name.removeprefix(DISTRIBUTED_PREFIX).removeprefix("encoder."): tensor
        for name, tensor in _without_counters(state).items()
        if isinstance(tensor, torch.Tensor)
    }
    own = _without_counters(network.state_dict())
    if misfits := _misfits(own, found):
        raise ValueError(
            f"MODEL.WEIGHTS {path} is not the whole of this config's classifier: {first_few(misfits)} differ; expected"
            f" a checkpoint of METHOD supervised with {own['fc.bias'].numel()} classes and this MODEL.ARCH, such as"
            " OUTPUT_DIR/model_final.pth"
        )
    _copy(own, found)
    return content.get("iteration", -1) + 1


def read_checkpoint(path: str | PathLike) -> Any:
    """Load a checkpoint that an encoder or a classifier is to be taken from.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was converted for detectron2, or is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; give a file such as OUTPUT_DIR/model_final.pth")
    if Path(path).suffix == ".pkl":
        raise ValueError(f"{path}: a .pkl is converted for detectron2; give the checkpoint that it was made from")
    return load_torch_file(path)


def _named_by_config(path: str | PathLike) -> Any:
    try:
        return read_checkpoint(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"MODEL.WEIGHTS: {error}") from error


def _without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not str(name).endswith(BATCH_COUNTER)}


def _misfits(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    """Name the tensors that only one side has, or that have another shape on the other."""
    missing = [name for name in own if name not in found]
    unknown = [name for name in found if name not in own]
    return missing + unknown + [name for name in own if name in found and own[name].shape != found[name].shape]


@torch.no_grad()
def _copy(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in own.items():  # tensors of a state dict share memory with their module's
        tensor.copy_(found[name])
