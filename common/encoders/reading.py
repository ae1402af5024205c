"""The encoder in a checkpoint: its location, its ResNet architecture, and whether it is complete.

Linear evaluation, classification and the converter to detectron2 all read checkpoints with `extract_encoder`: those of
the original MoCo, of mocodet, of torchvision and of the other projects in `mocodet.common.encoders.styles`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import errors_about, load_torch_file
from ..mistaken_file import refuse_missing
from ..skeleton import skeletons
from ..text import first_few
from .find import StoredResNet, find_encoder, labels, recorded_method, recorded_signs
from .pixels import GREY_MEAN, GREY_STD, input_channels, spread_over_rgb
from .resnet import build_resnet, recognise_resnet
from .styles import without_wrappers

# Prefix that DistributedDataParallel adds to every name; some checkpoints lack it.
DISTRIBUTED_PREFIX = "module."

# Keys of the tensors in checkpoints of the original code and of mocodet.
STATE_KEYS = ("state_dict", "model")

BATCH_COUNTER = ".num_batches_tracked"  # not used

# Heads that METHOD dense adds next to its encoders to compute vectors for the cells of the last feature maps.
DENSE_HEAD = re.compile(r"dense_head_[qk]\.")

ABOUT_SIGNS = "docs/evaluation.md, Is it learning?"

# Weights of these types are converted to float32, which is exact for float16 and bfloat16.
FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# Patterns of names that neither torchvision's nor detectron2's ResNet has -> the variant that they indicate.
VARIANTS: dict[str, str] = {
    r"conv1\.\d+\.|stem\.\d+\.": "a deep stem of three 3x3 convolutions (ResNet-C, -D and -T)",
    r"layer\d\.\d+\.downsample\.2\.": "average pooling before the convolutions in its shortcuts (ResNet-D)",
    r"layer\d\.\d+\.(?:se|attn)\.": "channel attention in its blocks (such as SE or ECA)",
}


@dataclass(frozen=True)
class Encoder:
    """A complete and valid ResNet from a checkpoint, with torchvision's names.

    Attributes:
        kind: description of the recognised kind of checkpoint.
        prefix: prefix of the encoder's names, preceded by the keys of the enclosing dicts if these add information.
        arch: its key in `.resnet.ARCHITECTURES`.
        small_stem: whether it begins with a 3x3 convolution and has no max-pool (`.resnet.build_resnet`).
        tensors: torchvision name -> float32 tensor, without the head (``fc``) and the batch counters.
        left_out: reason -> number of the checkpoint's tensors that were left out for this reason.
        progress: how far pre-training had progressed, such as ``"epoch 200"``, if the checkpoint records it.
        notes: further remarks: encoders that were passed over, weights that had another type, ``signs``.
        signs: signs of not learning that the checkpoint's run reported (docs/evaluation.md, Is it learning?).
        channels: number of channels of its images: 3, or 1 for greyscale.
        is_ours: whether mocodet's pre-training wrote the checkpoint. If so, the normalisation of images and the
            position of strides, which tensors do not show, are known.
    """

    kind: str
    prefix: str
    arch: str
    small_stem: bool
    tensors: dict[str, Tensor]
    left_out: dict[str, int]
    progress: str
    notes: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    channels: int = 3
    is_ours: bool = False

    def build(self) -> nn.Module:
        """Return the network with a copy of the weights; it maps images N x C x H x W to pooled features N x D.

        The network is in evaluation mode, on the CPU, in float32 and trainable; its ``fc`` is the identity. No random
        numbers are drawn.
        """
        network = _empty_resnet(self.arch, self.small_stem, self.channels)
        # A plain dict has no version, so torch fills in the batch counters that the encoder lacks.
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.tensors.items()}
        network.load_state_dict(copies, assign=True)
        return network.eval()

    def for_rgb(self) -> "Encoder":
        """Return an encoder for RGB images with the same output; `spread_over_rgb` converts greyscale encoders."""
        if self.channels == 3:
            return self
        note = (
            f"takes greyscale images; its first convolution is converted to RGB with the greyscale weights, assuming a"
            f" mean of {GREY_MEAN[0]:g} and a standard deviation of {GREY_STD[0]:g}"
        )
        spread = {"conv1.weight": spread_over_rgb(self.tensors["conv1.weight"])}
        return replace(self, tensors={**self.tensors, **spread}, notes=(*self.notes, note), channels=3)


def extract_encoder(checkpoint: Any, prefix: str | None = None) -> Encoder:
    """Find the encoder in a loaded checkpoint, and check that it is complete and valid.

    Args:
        checkpoint: result of `mocodet.common.checkpoint.load_torch_file`.
        prefix: prefix of the encoder's names, with or without the keys of the enclosing dicts; required if no style
            determines which encoder to use, or to select another one.

    Raises:
        ValueError: there is no encoder, or more than one and no choice; the architecture is unknown; the images are
            neither greyscale nor RGB; tensors are missing, unknown, or of the wrong shape or type; or values are not
            finite.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"contains a {type(checkpoint).__name__}; expected a dict of tensors by name")
    style, resnet, passed_over = find_encoder(checkpoint, prefix)
    entries = resnet.entries
    _check_variants(resnet)
    arch, small_stem = recognise_resnet(entries)
    channels = input_channels(entries)
    network = _empty_resnet(arch, small_stem, channels)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    heads = [name for name in entries if name.startswith(("fc.", *style.heads))]
    _check_names(resnet, expected, heads, arch)
    # Batch counters may be missing (torch < 0.4.1 had none), and are not used.
    tensors = {name: entries[name] for name in expected if not name.endswith(BATCH_COUNTER)}
    for name, tensor in tensors.items():
        check_tensor(resnet.own_name(name), tensor, FLOAT_TYPES, expected[name])
    dense_heads = [name for name in resnet.outside if DENSE_HEAD.match(without_wrappers(name))]
    left_out = {
        "projection head or classifier (fc)": len(heads),
        "dense heads (dense_head_q, dense_head_k)": len(dense_heads),
        "batch counters (num_batches_tracked), which are not used": len(entries) - len(heads) - len(tensors),
        "outside the encoder (key encoder, queue, ...)": len(resnet.outside) - len(dense_heads),
    }
    notes = []
    if passed_over:
        notes.append(f"passed over: {labels(passed_over)} (use the converter's --prefix to select it instead)")
    if types := sorted({str(tensor.dtype) for tensor in tensors.values()} - {str(torch.float32)}):
        notes.append(f"weights of type {', '.join(types)} are converted to torch.float32")
    if signs := recorded_signs(checkpoint):
        notes.append(f"warning: its training showed signs of not learning: {first_few(signs)} ({ABOUT_SIGNS})")
    told = ((key, checkpoint.get(key)) for key in ("arch", "epoch", "iteration"))
    return Encoder(
        kind=style.name,
        prefix=resnet.label,
        arch=arch,
        small_stem=small_stem,
        tensors={name: tensor.detach().float() for name, tensor in tensors.items()},
        left_out={reason: count for reason, count in left_out.items() if count},
        progress=", ".join(f"{key} {value}" for key, value in told if isinstance(value, str | int)),
        notes=tuple(notes),
        signs=signs,
        channels=channels,
        is_ours=bool(recorded_method(checkpoint)),
    )


def read_checkpoint(path: str | PathLike) -> Any:
    """Load a checkpoint that contains an encoder or a classifier.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has been converted for detectron2, or is damaged.
    """
    refuse_missing(path)
    if Path(path).suffix == ".pkl":
        raise ValueError(f"{path}: a .pkl file is already converted for detectron2; specify the original checkpoint")
    return load_torch_file(path)


def read_encoder(path: str | PathLike, prefix: str | None = None) -> Encoder:
    """Read the encoder, for RGB images, from any checkpoint that the converter supports; see `extract_encoder`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file contains no complete and finite encoder, or see `read_checkpoint`; the message names the
            file.
    """
    checkpoint = read_checkpoint(path)
    with errors_about(path):
        return extract_encoder(checkpoint, prefix).for_rgb()


def _check_variants(resnet: StoredResNet) -> None:
    for pattern, variant in VARIANTS.items():
        if name := next((name for name in resnet.entries if re.match(pattern, name)), None):
            raise ValueError(
                f"the encoder is a variant with {variant}: it contains {resnet.own_name(name)}; expected a plain"
                " ResNet, as in torchvision and detectron2"
            )
    norms = [name for name in resnet.entries if re.fullmatch(r"(?:layer\d\.\d+\.)?bn\d\.weight", name)]
    if norms and not any(name.endswith(".running_mean") for name in resnet.entries):
        raise ValueError(
            f"the encoder's norm layers have no running statistics (group norm?): {resnet.own_name(norms[0])} has no"
            " matching running_mean; expected batch norm, as in torchvision's ResNet"
        )


def _check_names(resnet: StoredResNet, expected: Mapping[str, Any], heads: list[str], arch: str) -> None:
    absent = [name for name in expected if name not in resnet.entries and not name.endswith(BATCH_COUNTER)]
    if missing := [resnet.own_name(name) for name in absent]:
        raise ValueError(f"the encoder is incomplete for a {arch}: missing {first_few(missing)}")
    if unknown := [resnet.own_name(name) for name in resnet.entries if name not in expected and name not in heads]:
        raise ValueError(f"the encoder has tensors that torchvision's {arch} does not have: {first_few(unknown)}")


def check_tensor(name: str, tensor: Any, types: Collection[torch.dtype], shape: tuple[int, ...] | None = None) -> None:
    """Check that a value can be a tensor of the network.

    Args:
        name: name of the value in the file; the name of a variance ends with ``running_var``.
        tensor: the value in the file.
        types: data types that the tensor may have.
        shape: required shape; None accepts any shape.

    Raises:
        ValueError: the value is not a dense tensor on the CPU with such a type and shape, is not finite everywhere, or
            is a variance with negative values.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; expected a tensor")
    if tensor.layout != torch.strided or tensor.dtype not in types or tensor.device.type != "cpu":
        raise ValueError(
            f"{name} is {tensor.dtype}, {tensor.layout}, on {tensor.device}; expected a dense tensor of"
            f" {' or '.join(str(kind).removeprefix('torch.') for kind in types)}"
        )
    if shape is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
    if not torch.isfinite(tensor.float()).all():
        raise ValueError(f"{name} contains NaN or infinite values: pre-training diverged or the file is damaged")
    if name.endswith("running_var") and (tensor < 0).any():
        raise ValueError(f"{name} contains negative variances: the file is damaged")


def _empty_resnet(arch: str, small_stem: bool, channels: int) -> nn.Module:
    """Build the network without its classifier and without values, to obtain names and shapes."""
    with skeletons():
        network = build_resnet(arch, small_stem=small_stem, channels=channels)
        network.fc = nn.Identity()
    return network
