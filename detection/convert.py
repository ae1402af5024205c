"""From a pre-trained encoder's checkpoint to weights that detectron2 reads (recipes section 2, "Conversion").

The one module that knows the parameter names of both sides. On the left stand torchvision ResNets, as they lie in

* MoCo's original checkpoints ``{"epoch", "arch", "state_dict", "optimizer"}``, names ``module.encoder_q.conv1.weight``,
* our own pre-training checkpoints ``{"model", ..., "iteration"}``, names ``encoder_q.conv1.weight``,
* torchvision's own files, names ``conv1.weight``;

on the right detectron2's ResNet: ``stem.conv1.weight``, ``res2.0.conv1.norm.weight`` and so on.
"""

import pickle
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

# Where a checkpoint may keep the encoder to transfer: name prefix -> what has such names. The first that is found wins.
ENCODER_PREFIXES: dict[str, str] = {
    "encoder_q.": "MoCo query encoder",
    "": "torchvision ResNet",
}

# What DistributedDataParallel puts in front of every name; a checkpoint may or may not have it.
DISTRIBUTED_PREFIX = "module."

# Under which key a checkpoint may keep its tensors; one that has none of these is itself the dict of tensors.
STATE_KEYS: dict[str, str] = {
    "state_dict": "original format",
    "model": "mocodet format",
}

# Numbers of blocks in layer1 to layer4, and whether they are bottlenecks -> depth [He et al. 2016, table 1].
RESNET_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}

# What a detectron2 model must be told when it starts from weights converted like this (recipes section 2).
REQUIRED_CONFIG: dict[str, Any] = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530],
    "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}

STAGES = ("res2", "res3", "res4", "res5")

# Largest relative difference that `verify` accepts.
TOLERANCE = 1e-5

AUTHOR = "mocodet"


@dataclass(frozen=True)
class Encoder:
    """A complete and sane torchvision ResNet taken out of a checkpoint.

    Attributes:
        kind: what the checkpoint was recognised as, for people.
        prefix: what stood in front of the encoder's names.
        depth: 18, 34, 50, 101 or 152.
        tensors: torchvision name -> float32 tensor; without the head (``fc``) and the batch counters.
        left_out: reason -> number of the checkpoint's tensors that are not in ``tensors`` for that reason.
        progress: how far the pre-training had come, where the checkpoint says so, such as ``"epoch 200"``.
    """

    kind: str
    prefix: str
    depth: int
    tensors: dict[str, Tensor]
    left_out: dict[str, int]
    progress: str


@dataclass(frozen=True)
class Conversion:
    """What `convert_file` did: the encoder it found, the names it wrote, the differences it measured per stage."""

    encoder: Encoder
    names: list[str]
    differences: dict[str, float] = field(default_factory=dict)


def convert_file(
    source: str | PathLike,
    output: str | PathLike,
    *,
    prefix: str | None = None,
    check: bool = True,
) -> Conversion:
    """Convert the checkpoint ``source`` and write ``output``, a pickle that detectron2's checkpointer reads.

    The file appears only if everything went well; until then whatever was at ``output`` stays.

    Args:
        source: a file written by ``torch.save``.
        output: name of the file to write; must end in ``.pkl``, by which detectron2 recognises the format.
        prefix: what stands in front of the encoder's names, where it is none of `ENCODER_PREFIXES`.
        check: prove by `verify` that the bytes to be written compute what the encoder in ``source`` computes.

    Raises:
        FileNotFoundError: there is no file ``source``.
        ValueError: ``source`` is damaged or holds no complete, finite encoder; or the verification failed.
    """
    output = Path(output)
    if output.suffix != ".pkl":
        raise ValueError(f"{output}: the output must end in .pkl, by which detectron2 recognises the format")
    checkpoint = load_torch_file(source)
    try:
        encoder = extract_encoder(checkpoint, prefix)
        weights = to_detectron2(encoder)
        # Protocol 4 pickles arrays without out-of-band buffers; numpy 1.26 and later read what numpy 2 writes.
        content = pickle.dumps(weights, protocol=4)
        differences = _verify_bytes(encoder, content) if check else {}
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    with atomic_open(output, "wb") as handle:
        handle.write(content)
    return Conversion(encoder, sorted(weights["model"]), differences)


def holds_encoder(checkpoint: Any) -> bool:
    """Tell whether a loaded file is an unconverted pre-training checkpoint (as opposed to detectron2's own)."""
    if not isinstance(checkpoint, Mapping):
        return False
    return _find_prefix(list(_state(checkpoint)[0]), None) is not None


def extract_encoder(checkpoint: Any, prefix: str | None = None) -> Encoder:
    """Find the encoder in a loaded checkpoint, and make sure that all of it is there and that it is sane.

    Raises:
        ValueError: no encoder; missing or unknown tensors; a wrong shape or type; values that are not finite.
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
    counters = [name for name in inside if name.endswith(".num_batches_tracked")]
    depth = _depth(inside)
    expected = {name: tuple(value.shape) for name, value in _torchvision_resnet(depth, "meta").state_dict().items()}
    _check_names(inside, expected, head, full_prefix, depth)
    tensors = {name: inside[name] for name in expected if name not in counters and name in inside}
    for name, tensor in tensors.items():
        _check_tensor(full_prefix + name, tensor, expected[name])
    left_out = {
        "projection head or classifier (fc)": len(head),
        "batch counters (num_batches_tracked), unused by detectron2": len(counters),
        "outside the encoder (key encoder, queue, ...)": len(state) - len(inside),
    }
    return Encoder(
        kind=f"{kind}, {layout}",
        prefix=full_prefix,
        depth=depth,
        tensors=tensors,
        left_out={reason: count for reason, count in left_out.items() if count},
        progress=", ".join(f"{key} {checkpoint[key]}" for key in ("arch", "epoch", "iteration") if key in checkpoint),
    )


def to_detectron2(encoder: Encoder) -> dict[str, Any]:
    """Return what detectron2's checkpointer reads: ``{"model": name -> float32 ndarray, "__author__", ...}``."""
    model = {detectron2_name(name): tensor.detach().contiguous().numpy() for name, tensor in encoder.tensors.items()}
    return {"model": model, "__author__": AUTHOR, "matching_heuristics": True}


def detectron2_name(name: str) -> str:
    """Translate a torchvision ResNet's parameter name: ``layer1.0.bn2.bias`` -> ``res2.0.conv2.norm.bias``."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"\bbn([1-3])\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def verify(encoder: Encoder, path: str | PathLike) -> dict[str, float]:
    """Prove that the file at ``path`` computes what ``encoder`` computes.

    detectron2's own checkpointer loads the file into detectron2's own ResNet; torchvision's ResNet is given the
    encoder's tensors under the names they came with. Both see the same random images in evaluation mode.

    Returns:
        for each of res2 to res5 the relative difference ``max|a - b| / max|b|`` of the activations, ``b`` being
        torchvision's.

    Raises:
        ValueError: detectron2 left a parameter unmatched, or a difference exceeds `TOLERANCE`.
    """
    reference = _torchvision_resnet(encoder.depth, "cpu").eval()
    # A plain dict carries no version, so torch fills in the batch counters that the encoder goes without.
    reference.load_state_dict(encoder.tensors)
    backbone = _detectron2_resnet(encoder.depth).eval()
    _StrictCheckpointer(backbone).load(str(path))
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))  # N x 3 x H x W
    with torch.no_grad():
        found = backbone(images)
        expected = _torchvision_stages(reference, images)
    differences = {stage: _relative_difference(found[stage], expected[stage]) for stage in STAGES}
    # Written so that nan, which compares as false, fails.
    wrong = [stage for stage in STAGES if not differences[stage] <= TOLERANCE]
    if wrong:
        figures = ", ".join(f"{stage} {differences[stage]:.2g}" for stage in STAGES)
        raise ValueError(
            f"verification failed at {', '.join(wrong)}: detectron2's ResNet-{encoder.depth} with the converted weights"
            f" differs from the encoder by {figures} (relative; at most {TOLERANCE:g} allowed)"
        )
    return differences


class _StrictCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, for which a parameter without a partner is an error and not a warning."""

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        if any(incompatible):
            raise ValueError(
                f"verification failed: detectron2 reports missing {first_few(incompatible.missing_keys)},"
                f" unexpected {first_few(incompatible.unexpected_keys)},"
                f" wrong shape {first_few([name for name, *_ in incompatible.incorrect_shapes])}"
            )
        return incompatible


def _verify_bytes(encoder: Encoder, content: bytes) -> dict[str, float]:
    """`verify` what is about to become the output, in a file that nobody can mistake for it.

    The output's own temporary neighbour would not do: detectron2 recognises the format by the ending ``.pkl``.
    """
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "candidate.pkl"
        candidate.write_bytes(content)
        return verify(encoder, candidate)


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
    wanted = "'encoder_q.*' or a torchvision ResNet's" if prefix is None else f"'{prefix.removesuffix('.')}.conv1.*'"
    seen = f"names begin with {first_few(groups)}" if groups else "there are no names at all"
    return f"holds no encoder: {len(names)} tensors, none named {wanted}; {seen}; pass --prefix to name the encoder"


def _depth(inside: Mapping[str, Any]) -> int:
    blocks: dict[int, set[int]] = {layer: set() for layer in range(1, 5)}
    for name in inside:
        match = re.match(r"layer([1-4])\.(\d+)\.", name)
        if match:
            blocks[int(match[1])].add(int(match[2]))
    counts = tuple(len(found) for found in blocks.values())
    bottleneck = any(".conv3." in name for name in inside)
    if (counts, bottleneck) not in RESNET_DEPTHS:
        block = "bottleneck" if bottleneck else "basic"
        known = ", ".join(f"{depth}: {sizes}" for (sizes, _), depth in RESNET_DEPTHS.items())
        raise ValueError(
            f"the encoder has {counts} {block} blocks in layer1 to layer4; expected a complete ResNet ({known})"
        )
    return RESNET_DEPTHS[counts, bottleneck]


def _check_names(
    inside: Mapping[str, Any], expected: Mapping[str, Any], head: list[str], prefix: str, depth: int
) -> None:
    # Batch counters may be absent (torch < 0.4.1 had none): nothing is read from them.
    required = [name for name in expected if not name.endswith(".num_batches_tracked")]
    missing = [f"{prefix}{name}" for name in required if name not in inside]
    unknown = [f"{prefix}{name}" for name in inside if name not in expected and name not in head]
    if missing:
        raise ValueError(f"the encoder is incomplete for a ResNet-{depth}: missing {first_few(missing)}")
    if unknown:
        raise ValueError(f"the encoder has tensors that a torchvision ResNet-{depth} has not: {first_few(unknown)}")


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


def _torchvision_resnet(depth: int, device: str) -> nn.Module:
    """Build torchvision's ResNet without its classifier; on the meta device it costs no memory."""
    build: Callable[..., nn.Module] = getattr(torchvision.models, f"resnet{depth}")
    with torch.device(device):
        model = build(weights=None)
        model.fc = nn.Identity()
    return model


def _torchvision_stages(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    features = model.maxpool(model.relu(model.bn1(model.conv1(images))))  # N x 64 x H/4 x W/4
    stages = {}
    for stage, layer in zip(STAGES, (model.layer1, model.layer2, model.layer3, model.layer4), strict=True):
        features = layer(features)
        stages[stage] = features
    return stages


def _detectron2_resnet(depth: int) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = REQUIRED_CONFIG["MODEL.RESNETS.STRIDE_IN_1X1"]
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    return build_backbone(cfg)


def _relative_difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return ((found - expected).abs().max() / scale).item()
