"""The encoder in a checkpoint: where it lies, which ResNet it is, whether it is whole (recipes section 2).

Linear evaluation, classification and the converter to detectron2 read the same files, all through `extract_encoder`:

* MoCo's original checkpoints ``{"epoch", "arch", "state_dict", "optimizer"}``, names ``module.encoder_q.conv1.weight``,
* our own pre-training checkpoints ``{"model", ..., "iteration"}``, names ``encoder_q.conv1.weight``,
* our own supervised ones, names ``encoder.conv1.weight``,
* torchvision's own files, names ``conv1.weight``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .resnet import build_resnet, recognise_resnet
from .text import first_few

# Where a checkpoint may keep the encoder to transfer: name prefix -> what has such names. The first that is found wins.
ENCODER_PREFIXES: dict[str, str] = {
    "encoder_q.": "MoCo query encoder",
    "encoder.": "mocodet classifier",
    "": "torchvision ResNet",
}

# What DistributedDataParallel puts in front of every name; a checkpoint may or may not have it.
DISTRIBUTED_PREFIX = "module."

# Under which key a checkpoint may keep its tensors; one that has none of these is itself the dict of tensors.
STATE_KEYS: dict[str, str] = {
    "state_dict": "original format",
    "model": "mocodet format",
}

BATCH_COUNTER = ".num_batches_tracked"  # nothing reads it


@dataclass(frozen=True)
class Encoder:
    """A complete and sane ResNet, in torchvision's names, taken out of a checkpoint.

    Attributes:
        kind: what the checkpoint was recognised as, for people.
        prefix: what stood in front of the encoder's names.
        arch: which of `mocodet.common.resnet.ARCHITECTURES` it is.
        small_stem: whether it begins with a 3x3 convolution and no max-pool (`mocodet.common.resnet.build_resnet`).
        tensors: torchvision name -> float32 tensor; without the head (``fc``) and the batch counters.
        left_out: reason -> number of the checkpoint's tensors that are not in ``tensors`` for that reason.
        progress: how far the pre-training had come, where the checkpoint says so, such as ``"epoch 200"``.
    """

    kind: str
    prefix: str
    arch: str
    small_stem: bool
    tensors: dict[str, Tensor]
    left_out: dict[str, int]
    progress: str

    def build(self) -> nn.Module:
        """Return the network with a copy of the weights: images N x 3 x H x W to pooled features N x D.

        It is in evaluation mode, on the CPU, in float32, trainable; its ``fc`` is the identity. No random number is
        drawn for it.
        """
        network = _empty_resnet(self.arch, self.small_stem)
        # A plain dict carries no version, so torch fills in the batch counters that the encoder goes without.
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.tensors.items()}
        network.load_state_dict(copies, assign=True)
        return network.eval()


def holds_encoder(checkpoint: Any) -> bool:
    """Tell whether a loaded file is an unconverted checkpoint of an encoder (as opposed to detectron2's own)."""
    if not isinstance(checkpoint, Mapping):
        return False
    return _find_prefix(list(_state(checkpoint)[0]), None) is not None


def extract_encoder(checkpoint: Any, prefix: str | None = None) -> Encoder:
    """Find the encoder in a loaded checkpoint, and make sure that all of it is there and that it is sane.

    Args:
        checkpoint: what `mocodet.common.checkpoint.load_torch_file` returned.
        prefix: what stands in front of the encoder's names, where it is none of `ENCODER_PREFIXES`.

    Raises:
        ValueError: no encoder; one of no known architecture; missing or unknown tensors; a wrong shape or type; values
            that are not finite.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"holds a {type(checkpoint).__name__}; expected a dict with tensors by name")
    state, layout = _state(checkpoint)
    names = list(state)
    found = _find_prefix(names, prefix)
    if found is None:
        raise ValueError(_no_encoder_message(names, prefix))
    full_prefix, kind = found
    inside = {name[len(full_prefix) :]: value for name, value in state.items() if name.startswith(full_prefix)}
    head = [name for name in inside if name.startswith("fc.")]
    counters = [name for name in inside if name.endswith(BATCH_COUNTER)]
    arch, small_stem = recognise_resnet(inside)
    expected = {name: tuple(value.shape) for name, value in _empty_resnet(arch, small_stem).state_dict().items()}
    _check_names(inside, expected, head, full_prefix, arch)
    tensors = {name: inside[name] for name in expected if name not in counters and name in inside}
    for name, tensor in tensors.items():
        _check_tensor(full_prefix + name, tensor, expected[name])
    left_out = {
        "projection head or classifier (fc)": len(head),
        "batch counters (num_batches_tracked), which nothing reads": len(counters),
        "outside the encoder (key encoder, queue, ...)": len(state) - len(inside),
    }
    return Encoder(
        kind=f"{kind}, {layout}",
        prefix=full_prefix,
        arch=arch,
        small_stem=small_stem,
        tensors=tensors,
        left_out={reason: count for reason, count in left_out.items() if count},
        progress=", ".join(f"{key} {checkpoint[key]}" for key in ("arch", "epoch", "iteration") if key in checkpoint),
    )


def _state(checkpoint: Mapping) -> tuple[dict[str, Any], str]:
    """Return what a checkpoint holds by name, and what its layout is called."""
    for key, layout in STATE_KEYS.items():
        if isinstance(checkpoint.get(key), Mapping):
            return {name: value for name, value in checkpoint[key].items() if isinstance(name, str)}, layout
    state = {name: value for name, value in checkpoint.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return state, "bare state dict"


def _find_prefix(names: list[str], prefix: str | None) -> tuple[str, str] | None:
    """Return the full prefix of the encoder among ``names`` and its kind, or None."""
    if prefix is None:
        candidates = ENCODER_PREFIXES
    else:
        candidates = {prefix if prefix == "" or prefix.endswith(".") else f"{prefix}.": "encoder named by prefix"}
    for candidate, kind in candidates.items():
        for full in (candidate, DISTRIBUTED_PREFIX + candidate):
            if any(name.startswith((f"{full}conv1.", f"{full}layer1.")) for name in names):
                return full, kind
    return None


def _no_encoder_message(names: list[str], prefix: str | None) -> str:
    groups = sorted({".".join(name.split(".")[:2]) for name in names})
    if prefix is None:
        wanted = "'encoder_q.*', 'encoder.*' or a torchvision ResNet's"
    else:
        wanted = f"'{prefix.removesuffix('.')}.conv1.*'"
    seen = f"names begin with {first_few(groups)}" if groups else "there are no names at all"
    return (
        f"holds no encoder: {len(names)} tensors, none named {wanted}; {seen};"
        " convert with --prefix to name another encoder"
    )


def _check_names(
    inside: Mapping[str, Any], expected: Mapping[str, Any], head: list[str], prefix: str, arch: str
) -> None:
    # Batch counters may be absent (torch < 0.4.1 had none): nothing is read from them.
    required = [name for name in expected if not name.endswith(BATCH_COUNTER)]
    missing = [f"{prefix}{name}" for name in required if name not in inside]
    unknown = [f"{prefix}{name}" for name in inside if name not in expected and name not in head]
    if missing:
        raise ValueError(f"the encoder is incomplete for a {arch}: missing {first_few(missing)}")
    if unknown:
        raise ValueError(f"the encoder has tensors that a torchvision {arch} has not: {first_few(unknown)}")


def _check_tensor(name: str, tensor: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; expected a tensor")
    if tensor.layout != torch.strided or tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype}, {tensor.layout}; expected a dense torch.float32 tensor")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds nan or inf: the pre-training diverged or the file is damaged")
    if name.endswith("running_var") and (tensor < 0).any():
        raise ValueError(f"{name} holds negative variances: the file is damaged")


def _empty_resnet(arch: str, small_stem: bool) -> nn.Module:
    """Build the network without its classifier on the meta device: names and shapes that cost no memory."""
    with torch.device("meta"):
        network = build_resnet(arch, small_stem=small_stem)
        network.fc = nn.Identity()
    return network
