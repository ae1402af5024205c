"""Converts a pre-trained encoder's checkpoint to weights for detectron2 (docs/converter.md).

Only this module contains the parameter names of both libraries: those of torchvision's ResNets, which
`mocodet.common.encoders.reading` finds in checkpoints, such as ``layer1.0.bn1.weight``, and those of detectron2's
ResNet, such as ``res2.0.conv1.norm.weight``. `mocodet.detection.weights.convert_back` converts in the opposite
direction.
"""

import pickle
import re
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torchvision.models import ResNet

from mocodet.common.checkpoint import errors_about, load_torch_file
from mocodet.common.compiler import eager_convolutions
from mocodet.common.encoders.find import COLLAPSE, CONSTANT_IMAGES
from mocodet.common.encoders.reading import ABOUT_SIGNS, Encoder, extract_encoder
from mocodet.common.files import atomic_open
from mocodet.common.skeleton import NoDraws
from mocodet.common.text import first_few

from .arrays import load_array_pickle
from .settings import ASSUMED_KEY, AUTHOR, SETTINGS_KEY, encoder_settings, required_config

STAGES = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}

# Parts of parameter names in torchvision and detectron2, in the order in which they are replaced for detectron2.
PARTS: tuple[tuple[str, str], ...] = (
    *((f"{layer}.", f"{stage}.") for layer, stage in STAGES.items()),
    *((f"bn{i}.", f"conv{i}.norm.") for i in (1, 2, 3)),
    ("downsample.0.", "shortcut."),
    ("downsample.1.", "shortcut.norm."),
)

# The part of a parameter's name that identifies its position in a ResNet: `stem.conv1.weight` of
# `backbone.bottom_up.stem.conv1.weight`, `res5.0.conv1.weight` of `roi_heads.res5.0.conv1.weight`. A stage's blocks are
# numbered, so layers that a detector adds beside them (`roi_heads.res5.norm`, `fpn_lateral5`) do not match.
ENCODER_PART = re.compile(r"(?:^|\.)((?:stem|res[2-5]\.\d+)\..+)$")

# Maximum relative difference that `compare_stages` accepts.
TOLERANCE = 1e-5

# The epsilon that batch norm adds to a variance. If most variances are below it, almost no signal passes through the
# layer.
BATCH_NORM_EPSILON = 1e-5

# Warning signs that make an encoder useless, and their remedies.
NOTHING_LEARNED = {
    CONSTANT_IMAGES: "all images had one colour. Check the files: 16-bit images and masks may become black or white",
    COLLAPSE: "the encoder produced the same vector for all images. Lower SOLVER.BASE_LR or raise SOLVER.WARMUP_ITERS",
}


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion in either direction: the encoder and, if it was verified, the difference of each stage."""

    encoder: Encoder
    differences: dict[str, float]


def convert_file(
    source: str | PathLike, output: str | PathLike, *, prefix: str | None = None, check: bool = True
) -> Conversion:
    """Convert the checkpoint ``source`` and write ``output``, a pickle for detectron2's checkpointer.

    The file is written only if everything succeeds. Until then, an existing ``output`` is unchanged.

    Args:
        source: a file written by ``torch.save``, or a safetensors file.
        output: name of the file to write. It must end in ``.pkl``, by which detectron2 recognises the format.
        prefix: prefix of the encoder's parameter names. Required only if none of
            `mocodet.common.encoders.styles.STYLES` identifies the encoder, or to select another encoder.
        check: whether to verify with `compare_stages` that the weights to be written compute the same as the encoder in
            ``source``, and that the result differs between images (see also `refuse_signs` and
            `refuse_constant_statistics`).

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: ``source`` is damaged, contains no complete, finite encoder, or contains one for which detectron2
            has no network; or the verification failed.
    """
    output = Path(output)
    if output.suffix != ".pkl":
        raise ValueError(
            f"{output}: the name of the output must end in .pkl, by which detectron2 recognises the format"
        )
    checkpoint = _load(source)
    with errors_about(source):
        encoder = extract_encoder(checkpoint, prefix)
        # Protocol 4 pickles arrays without out-of-band buffers; NumPy 1.26 and later can read files from NumPy 2.
        content = pickle.dumps(to_detectron2(encoder), protocol=4)
        differences = {}
        if check:
            refuse_signs(encoder)
            refuse_constant_statistics(encoder)
            differences = compare_stages(detectron2_resnet(encoder, pickle.loads(content)), encoder.build())
    with atomic_open(output, "wb") as handle:
        handle.write(content)
    return Conversion(encoder, differences)


def convert_state_dict(checkpoint: dict[str, Any], prefix: str | None = None) -> dict[str, Any]:
    """Return the encoder of a loaded checkpoint or a bare state dict, in the format of detectron2's checkpointer.

    ``DetectionCheckpointer`` reads the result from a file written by ``pickle.dump`` whose name ends in ``.pkl``.

    Args:
        checkpoint: the result of ``torch.load``, or ``model.state_dict()``.
        prefix: see `convert_file`.

    Raises:
        ValueError: the checkpoint contains no complete, finite encoder, or one for which detectron2 has no network.
    """
    return to_detectron2(extract_encoder(checkpoint, prefix))


def _load(source: str | PathLike) -> Any:
    try:
        return load_torch_file(source)
    except ValueError as error:
        try:
            is_converted = not {"model", "blobs"}.isdisjoint(load_array_pickle(source))
        except ValueError:
            is_converted = False
        if is_converted:
            raise ValueError(
                f"{source} is already a .pkl in detectron2's format and requires no conversion: set MODEL.WEIGHTS to"
                " it; --to torchvision converts in the opposite direction"
            ) from error
        raise


def to_detectron2(encoder: Encoder) -> dict[str, Any]:
    """Return an encoder in detectron2's format: ``{"model": name -> float32 ndarray, "__author__", ...}``.

    The result records the images and strides with which the encoder was trained (`mocodet.detection.weights.settings`).

    Raises:
        ValueError: detectron2 has no network with the encoder's small stem.
    """
    if encoder.small_stem:
        raise ValueError(
            f"this {encoder.arch} has the small stem (3x3 first convolution, no max-pool), which detectron2's ResNet"
            " does not support. It can be used for linear evaluation and kNN; for detectors, pre-train with"
            " MODEL.SMALL_STEM False"
        )
    model = {detectron2_name(name): tensor.detach().contiguous().numpy() for name, tensor in encoder.tensors.items()}
    settings = encoder_settings(encoder)
    return {
        "model": model,
        "__author__": AUTHOR,
        "matching_heuristics": True,
        SETTINGS_KEY: dict(settings.values),
        ASSUMED_KEY: sorted(settings.assumed),
    }


def detectron2_name(name: str) -> str:
    """Translate a torchvision ResNet's parameter name: ``layer1.0.bn2.bias`` -> ``res2.0.conv2.norm.bias``."""
    for torchvision, detectron2 in PARTS:
        name = name.replace(torchvision, detectron2)
    return name if name.startswith("res") else f"stem.{name}"


def torchvision_name(name: str) -> str:
    """Translate a parameter name of detectron2's ResNet: ``res2.0.conv2.norm.bias`` -> ``layer1.0.bn2.bias``."""
    for torchvision, detectron2 in reversed(PARTS):
        name = name.replace(detectron2, torchvision)
    return name.removeprefix("stem.")


def detectron2_resnet(encoder: Encoder, checkpoint: dict[str, Any]) -> nn.Module:
    """Build detectron2's ResNet for an encoder, and load the weights with detectron2's own checkpointer.

    Args:
        encoder: the encoder, whose `required_config` determines the ResNet.
        checkpoint: the weights as detectron2 loads them from a file: ``{"model": name -> array or tensor, ...}``.

    Raises:
        ValueError: detectron2's checkpointer left a parameter of the network or of the checkpoint unmatched.
    """
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES.values())
    for key, value in required_config(encoder).items():
        cfg.merge_from_list([key, value])
    with NoDraws():
        backbone = build_backbone(cfg)
    for tensor in backbone.state_dict().values():
        # A nan that is not overwritten propagates to the output, so that the comparison fails.
        tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    incompatible = DetectionCheckpointer(backbone)._load_model(checkpoint)
    if any(incompatible):
        raise ValueError(
            f"verification failed: detectron2 reports missing {first_few(incompatible.missing_keys)},"
            f" unexpected {first_few(incompatible.unexpected_keys)},"
            f" wrong shape {first_few([name for name, *_ in incompatible.incorrect_shapes])}"
        )
    return backbone


def refuse_signs(encoder: Encoder) -> None:
    """Reject an encoder whose own run warned that it learned nothing (docs/evaluation.md, Is it learning?).

    Raises:
        ValueError: the checkpoint records a sign of `NOTHING_LEARNED`.
    """
    if told := [sign for sign in NOTHING_LEARNED if sign in encoder.signs]:
        reasons = "; ".join(f"{sign}: {NOTHING_LEARNED[sign]}" for sign in told)
        raise ValueError(
            f"verification failed: its training warned of {reasons}; pre-train again ({ABOUT_SIGNS}), or use"
            " --no-verify to convert it anyway"
        )


def refuse_constant_statistics(encoder: Encoder) -> None:
    """Reject an encoder with a layer whose features hardly varied during training.

    Training on black images has this result if the last feature map has a single cell (crops of 32 pixels). On larger
    maps, zero padding makes even those features vary, and only the checkpoint's records reveal the problem
    (`refuse_signs`).

    Raises:
        ValueError: half of the variances of a layer are below `BATCH_NORM_EPSILON`.
    """
    norms = {name: tensor for name, tensor in encoder.tensors.items() if name.endswith(".running_var")}
    if blind := [name for name, variances in norms.items() if variances.median() < BATCH_NORM_EPSILON]:
        raise ValueError(
            f"verification failed: in {len(blind)} of {len(norms)} batch norms, {first_few(blind)}, half of the"
            f" variances are below {BATCH_NORM_EPSILON:g}. The encoder was trained on images that do not differ, or it"
            " has collapsed; check the images, and spread and image_std in the log of pre-training, or use --no-verify"
            " to convert it anyway"
        )


def compare_stages(written: nn.Module, source: nn.Module) -> dict[str, float]:
    """Compare the activations of a detectron2 ResNet and a torchvision ResNet on the same random images.

    Args:
        written: the network with the weights to be written.
        source: the network with the original weights.

    Returns:
        for each of res2 to res5, the relative difference ``max|a - b| / max|b|`` of the activations in evaluation mode,
        where ``b`` are those of the source.

    Raises:
        ValueError: a difference exceeds `TOLERANCE`, or the images differ by less than that in the last stage of
            ``source``, so that any network with constant features would agree with it.
    """
    found, expected = _stages(written), _stages(source)
    differences = {stage: _relative_difference(found[stage], expected[stage]) for stage in STAGES.values()}
    # Written such that nan, for which comparisons are false, fails.
    if wrong := [stage for stage, difference in differences.items() if not difference <= TOLERANCE]:
        figures = ", ".join(f"{stage} {difference:.2g}" for stage, difference in differences.items())
        raise ValueError(
            f"verification failed at {', '.join(wrong)}: the ResNet with the written weights differs from the source by"
            f" {figures} (relative; at most {TOLERANCE:g} allowed)"
        )
    one, other = expected["res5"]
    if _relative_difference(one, other) <= TOLERANCE:
        raise ValueError(
            "verification failed: the encoder produces the same features in res5 for all images. It has collapsed and"
            " is useless for a detector; check spread in the log of pre-training, or use --no-verify to convert it"
            " anyway"
        )
    return differences


def _stages(network: nn.Module) -> dict[str, Tensor]:
    channels = next(network.parameters()).shape[1]  # of the first convolution
    images = torch.randn(2, channels, 96, 96, generator=torch.Generator().manual_seed(0))  # N x C x H x W
    network.eval()
    stages: dict[str, Tensor] = {}
    with torch.no_grad(), eager_convolutions():
        if not isinstance(network, ResNet):  # detectron2's ResNet
            return network(images)
        for layer, stage in STAGES.items():
            network.get_submodule(layer).register_forward_hook(partial(_keep, stages, stage))
        network(images)
    return stages


def _keep(stages: dict[str, Tensor], stage: str, layer: nn.Module, images: tuple[Tensor], output: Tensor) -> None:
    stages[stage] = output


def _relative_difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return ((found - expected).abs().max() / scale).item()
