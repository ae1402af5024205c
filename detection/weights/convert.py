"""From a pre-trained encoder's checkpoint to weights that detectron2 reads (recipes section 2, "Conversion").

The one module that knows the parameter names of both sides: on the left ResNets under torchvision's names, as
`mocodet.common.encoders.reading` finds them in checkpoints, ``layer1.0.bn1.weight``; on the right detectron2's ResNet,
``res2.0.conv1.norm.weight``.
"""

import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.encoders.reading import Encoder, extract_encoder
from mocodet.common.encoders.resnet import ARCHITECTURES
from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

from .arrays import load_array_pickle

# What any detectron2 model must be told when it starts from weights converted like this (recipes section 2); what its
# architecture asks for comes on top (`required_config`).
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
        source: a file of ``torch.save`` or safetensors.
        output: name of the file to write; must end in ``.pkl``, by which detectron2 recognises the format.
        prefix: what stands in front of the encoder's names, where none of `mocodet.common.encoders.styles.STYLES` says
            which encoder to take, or another one is wanted.
        check: prove by `verify` that the bytes to be written compute what the encoder in ``source`` computes.

    Raises:
        FileNotFoundError: there is no file ``source``.
        ValueError: ``source`` is damaged or holds no complete, finite encoder, or one that detectron2 has no network
            for; or the verification failed.
    """
    output = Path(output)
    if output.suffix != ".pkl":
        raise ValueError(f"{output}: the output must end in .pkl, by which detectron2 recognises the format")
    checkpoint = _load(source)
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


def _load(source: str | PathLike) -> Any:
    try:
        return load_torch_file(source)
    except ValueError as error:
        if _is_for_detectron2(source):
            raise ValueError(
                f"{source} is a .pkl of detectron2's already and needs no conversion: name it as MODEL.WEIGHTS;"
                " --to torchvision is the way back"
            ) from error
        raise


def _is_for_detectron2(source: str | PathLike) -> bool:
    try:
        return not {"model", "blobs"}.isdisjoint(load_array_pickle(source))
    except ValueError:
        return False


def required_config(encoder: Encoder) -> dict[str, Any]:
    """Return what a detectron2 config must set to start from ``encoder``, where detectron2's defaults are otherwise.

    The depth is there in any case, so that it is plain which network is meant.
    """
    defaults = dict(get_cfg().MODEL.RESNETS)
    special = {
        key: value
        for key, value in resnet_config(encoder.arch).items()
        if key == "MODEL.RESNETS.DEPTH" or value != defaults[key.rpartition(".")[2]]
    }
    return REQUIRED_CONFIG | special


def resnet_config(arch: str) -> dict[str, int]:
    """Return the settings that make detectron2's ResNet an ``arch``, a key of `ARCHITECTURES`."""
    shape = ARCHITECTURES[arch]
    return {
        "MODEL.RESNETS.DEPTH": shape.depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": shape.stem_channels,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": shape.layer1_channels,
        "MODEL.RESNETS.NUM_GROUPS": shape.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": shape.inner_channels // shape.groups,
    }


def to_detectron2(encoder: Encoder) -> dict[str, Any]:
    """Return what detectron2's checkpointer reads: ``{"model": name -> float32 ndarray, "__author__", ...}``.

    Raises:
        ValueError: detectron2 has no network with the encoder's small stem.
    """
    if encoder.small_stem:
        raise ValueError(
            f"this {encoder.arch} has the small stem (3x3 first convolution, no max-pool), which detectron2's ResNet"
            " cannot have: no detector starts from it, while linear evaluation and kNN read it as it is; for detectors"
            " pre-train with MODEL.SMALL_STEM False"
        )
    model = {detectron2_name(name): tensor.detach().contiguous().numpy() for name, tensor in encoder.tensors.items()}
    return {"model": model, "__author__": AUTHOR, "matching_heuristics": True}


def detectron2_name(name: str) -> str:
    """Translate a torchvision ResNet's parameter name: ``layer1.0.bn2.bias`` -> ``res2.0.conv2.norm.bias``."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"\bbn([1-3])\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def torchvision_name(name: str) -> str:
    """Translate a parameter name of detectron2's ResNet: ``res2.0.conv2.norm.bias`` -> ``layer1.0.bn2.bias``."""
    name = re.sub(r"^res([2-5])\.", lambda match: f"layer{int(match[1]) - 1}.", name).removeprefix("stem.")
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    return re.sub(r"\bconv([1-3])\.norm\.", r"bn\1.", name)


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
    backbone = detectron2_resnet(encoder.arch)
    _StrictCheckpointer(backbone).load(str(path))
    return compare_stages(
        detectron2_stages(backbone),
        torchvision_stages(encoder.build()),
        f"detectron2's {encoder.arch} with the converted weights differs from the encoder",
    )


def compare_stages(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], claim: str) -> dict[str, float]:
    """Return for each of res2 to res5 the relative difference ``max|a - b| / max|b|``, ``b`` being the expected.

    Raises:
        ValueError: a difference exceeds `TOLERANCE`; ``claim`` says of what.
    """
    differences = {stage: _relative_difference(found[stage], expected[stage]) for stage in STAGES}
    # Written so that nan, which compares as false, fails.
    wrong = [stage for stage in STAGES if not differences[stage] <= TOLERANCE]
    if wrong:
        figures = ", ".join(f"{stage} {differences[stage]:.2g}" for stage in STAGES)
        raise ValueError(
            f"verification failed at {', '.join(wrong)}: {claim} by {figures} (relative; at most {TOLERANCE:g} allowed)"
        )
    return differences


def detectron2_stages(backbone: nn.Module) -> dict[str, Tensor]:
    """Return what detectron2's ResNet (`detectron2_resnet`) computes after each stage from `_images`."""
    with torch.no_grad():
        return backbone.eval()(_images())


def torchvision_stages(network: nn.Module) -> dict[str, Tensor]:
    """Return what torchvision's ResNet computes after each stage from `_images`, under detectron2's names."""
    network.eval()
    stages = {}
    with torch.no_grad():
        features = network.maxpool(network.relu(network.bn1(network.conv1(_images()))))  # N x C x H/4 x W/4
        for stage, layer in zip(STAGES, (network.layer1, network.layer2, network.layer3, network.layer4), strict=True):
            features = layer(features)
            stages[stage] = features
    return stages


def detectron2_resnet(arch: str, norm: str = "BN") -> nn.Module:
    """Build detectron2's ResNet for an ``arch`` of `ARCHITECTURES`, with stages to compare."""
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = REQUIRED_CONFIG["MODEL.RESNETS.STRIDE_IN_1X1"]
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    for key, value in resnet_config(arch).items():
        cfg.merge_from_list([key, value])
    return build_backbone(cfg)


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


def _images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))  # N x 3 x H x W


def _relative_difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return ((found - expected).abs().max() / scale).item()
