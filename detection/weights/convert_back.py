"""Converts the encoder of a detectron2 detector back to torchvision's names.

This is the inverse of `mocodet.detection.weights.convert`. It writes the ResNet of a fine-tuned detector
(``backbone.*``, ``backbone.bottom_up.*`` and, in C4 models, ``roi_heads.res5.*``) as a state dict for torchvision's
ResNet.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg

from mocodet.common.checkpoint import errors_about, load_torch_file
from mocodet.common.config.bases import read_settings
from mocodet.common.encoders.find import holds_encoder
from mocodet.common.encoders.reading import BATCH_COUNTER, DISTRIBUTED_PREFIX, Encoder, extract_encoder
from mocodet.common.encoders.resnet import ARCHITECTURES
from mocodet.common.encoders.styles import with_dot
from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

from .arrays import load_array_pickle
from .convert import ENCODER_PART, Conversion, compare_stages, detectron2_resnet, torchvision_name
from .settings import TORCHVISION_AUTHORS


def convert_back_file(
    source: str | PathLike,
    output: str | PathLike,
    *,
    prefix: str | None = None,
    config_file: str | PathLike | None = None,
    check: bool = True,
) -> Conversion:
    """Extract the ResNet of the detector ``source`` and write ``output``, a state dict for torchvision's ResNet.

    A torchvision ResNet (without ``fc``) that loads it computes the same as the detector's backbone. The tensors do not
    show whether a bottleneck has its stride in the 3x3 convolution, as in torchvision, or in the preceding 1x1
    convolution, as in Caffe. The stride is determined from the detector's config, or from the author recorded in a file
    with torchvision's network. The file is written only if everything succeeds.

    Args:
        source: a ``.pth`` file from detectron2's trainer, or a ``.pkl`` file as in detectron2's model zoo.
        output: the file to write with ``torch.save``.
        prefix: the part before ``stem.conv1.weight`` in the detector's names, if it contains multiple ResNets.
        config_file: the detector's config file; by default, ``config.yaml`` beside ``source``, if it exists.
        check: whether to verify that the weights to be written compute the same as detectron2's ResNet with the
            detector's tensors.

    Raises:
        FileNotFoundError: ``source`` or ``config_file`` does not exist.
        ValueError: ``source`` is damaged, contains no complete, finite ResNet or multiple ResNets, its stride is known
            to be in the 1x1 convolutions or is not known, or the verification failed.
    """
    output = Path(output)
    if output.suffix == ".pkl":
        raise ValueError(f"{output}: detectron2 treats any .pkl as its own format; choose a name such as resnet.pth")
    if output.resolve() == Path(source).resolve():
        raise ValueError(f"{output} is the detector itself; write to another file")
    beside = Path(source).with_name("config.yaml")
    if config_file is None and beside.is_file():
        config_file = beside
    config = _read_config(config_file) if config_file is not None else None
    loaded = load_array_pickle(source) if Path(source).suffix == ".pkl" else load_torch_file(source)
    with errors_about(source):
        if not isinstance(loaded, Mapping):
            raise ValueError(f"contains a {type(loaded).__name__}; expected a detectron2 checkpoint")
        prefix, parts = _find_resnet(loaded, prefix)
        encoder = extract_encoder({torchvision_name(name): tensor for name, tensor in parts.items()})
        notes = _notes(encoder, loaded.get("__author__"), config, config_file) + encoder.notes
        buffer = io.BytesIO()
        torch.save({name: tensor.contiguous() for name, tensor in encoder.tensors.items()}, buffer)
        differences = {}
        if check:
            buffer.seek(0)
            written = extract_encoder(torch.load(buffer, weights_only=True)).build()
            tensors = {name: tensor.float() for name, tensor in parts.items() if not name.endswith(BATCH_COUNTER)}
            differences = compare_stages(written, detectron2_resnet(encoder, {"model": tensors}))
    with atomic_open(output, "wb") as handle:
        handle.write(buffer.getvalue())
    return Conversion(replace(encoder, kind="encoder of a detectron2 model", prefix=prefix, notes=notes), differences)


def _find_resnet(loaded: Mapping, prefix: str | None) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the prefix of a detector's ResNet, and its tensors under detectron2's names without the prefix."""
    model = loaded["model"] if isinstance(loaded.get("model"), Mapping) else loaded
    state = {
        str(name).removeprefix(DISTRIBUTED_PREFIX): torch.as_tensor(value)
        for name, value in model.items()
        if isinstance(value, torch.Tensor | np.ndarray)
    }
    by_prefix: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        if match := ENCODER_PART.search(name):
            by_prefix.setdefault(name[: match.start(1)], {})[match[1]] = tensor
    whole = [found for found, parts in by_prefix.items() if any(name.startswith("stem.") for name in parts)]
    if prefix is not None:
        whole = [found for found in whole if found == with_dot(prefix)]
    if not whole:
        raise ValueError(_no_resnet_message(loaded, state, prefix))
    if len(whole) > 1:
        names = first_few([f"{name!r}" for name in whole], 10)
        raise ValueError(f"contains {len(whole)} ResNets, at {names}; select one with --prefix")
    parts = by_prefix[whole[0]]
    if not any(name.startswith("res5.") for name in parts):
        # A C4 detector has the last stage of its ResNet in its head (Res5ROIHeads and classes derived from it).
        parts |= {name: value for name, value in by_prefix.get("roi_heads.", {}).items() if name.startswith("res5.")}
    return whole[0], parts


def _no_resnet_message(loaded: Mapping, state: Mapping[str, torch.Tensor], prefix: str | None) -> str:
    if holds_encoder(loaded):
        return (
            "already contains a ResNet under torchvision's names, as saved by pre-training; --to torchvision converts"
            " detectron2 detectors, so omit it to convert in the opposite direction"
        )
    places = ("backbone.", "backbone.bottom_up.") if prefix is None else (with_dot(prefix),)
    expected = " or ".join(f"'{place}stem.*'" for place in places)
    groups = sorted({".".join(name.split(".")[:2]) for name in state})
    seen = f"the names begin with {first_few(groups)}" if groups else f"its keys are {first_few([*map(repr, loaded)])}"
    return f"contains no detectron2 ResNet: none of its {len(state)} tensors are named {expected}; {seen}"


def _read_config(path: str | PathLike) -> CfgNode:
    """Read a detector's config and its base files on top of detectron2's defaults; unknown keys are allowed."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the config file {path} does not exist; specify the detector's config, such as OUTPUT_DIR/config.yaml"
        )
    cfg = get_cfg()
    cfg.set_new_allowed(True)
    try:
        cfg.merge_from_other_cfg(CfgNode(read_settings(Path(path)).content))
    except (AssertionError, KeyError, AttributeError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a detector's config ({type(error).__name__}: {first})") from error
    return cfg


def _notes(
    encoder: Encoder, author: str | None, config: CfgNode | None, path: str | PathLike | None
) -> tuple[str, ...]:
    """Reject a stride that is not known to be in the 3x3 convolutions; return notes for users of torchvision."""
    bottleneck = ARCHITECTURES[encoder.arch].bottleneck
    notes = []
    if encoder.channels == 1:
        width = ARCHITECTURES[encoder.arch].stem_channels
        notes.append(
            "the encoder is for greyscale images; before loading it into torchvision's ResNet, set network.conv1 ="
            f" torch.nn.Conv2d(1, {width}, 7, 2, 3, bias=False)"
        )
    if config is None:
        if bottleneck and author not in TORCHVISION_AUTHORS:
            raise ValueError(
                "the tensors do not show whether the bottlenecks have their stride in the 1x1 convolutions, as in"
                " detectron2's default and most of its model zoo, or in the 3x3 convolutions, as in torchvision;"
                " specify the detector's config with --config-file"
            )
        return tuple(notes)
    if bottleneck and config.MODEL.RESNETS.STRIDE_IN_1X1:
        raise ValueError(
            "the detector has the stride of its bottlenecks in the 1x1 convolutions (MODEL.RESNETS.STRIDE_IN_1X1 True"
            f" in {path}), like networks from Caffe; torchvision's ResNet has it in the 3x3 convolutions and would"
            " compute different results"
        )
    notes.append(
        f"the detector's input: {config.INPUT.FORMAT} images from 0 to 255, minus {list(config.MODEL.PIXEL_MEAN)},"
        f" divided by {list(config.MODEL.PIXEL_STD)} ({path})"
    )
    if config.MODEL.RESNETS.RES5_DILATION != 1:
        notes.append(
            f"res5 has dilation {config.MODEL.RESNETS.RES5_DILATION}; for the same features, build torchvision's ResNet"
            " with replace_stride_with_dilation=[False, False, True]"
        )
    return tuple(notes)
