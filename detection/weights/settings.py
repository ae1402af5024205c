"""The settings, known or assumed, that a detectron2 config requires for a model that starts from given weights."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from detectron2.config import get_cfg

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.encoders.find import holds_encoder
from mocodet.common.encoders.pixels import FORMATS, GREY_MEAN, GREY_STD, RGB_MEAN, RGB_STD
from mocodet.common.encoders.reading import Encoder, extract_encoder
from mocodet.common.encoders.resnet import ARCHITECTURES

from .arrays import load_array_pickle

FORMAT_KEY, STRIDE_KEY = "INPUT.FORMAT", "MODEL.RESNETS.STRIDE_IN_1X1"

# The settings for any detectron2 model that starts from a pre-trained encoder of RGB images. The encoder's architecture
# may require more settings (`required_config`).
REQUIRED_CONFIG: dict[str, Any] = {
    FORMAT_KEY: FORMATS[3],
    "MODEL.PIXEL_MEAN": list(RGB_MEAN),
    "MODEL.PIXEL_STD": list(RGB_STD),
    STRIDE_KEY: False,
}

# The same settings for an encoder of greyscale images.
GREY_CONFIG = {
    **REQUIRED_CONFIG,
    FORMAT_KEY: FORMATS[1],
    "MODEL.PIXEL_MEAN": list(GREY_MEAN),
    "MODEL.PIXEL_STD": list(GREY_STD),
}

AUTHOR = "mocodet"

# Authors whose files contain torchvision's networks, which have the stride of a bottleneck in its 3x3 convolution:
# mocodet (also for files converted while loading), MoCo's own conversion script, and detectron2's script for
# torchvision files.
TORCHVISION_AUTHORS = {AUTHOR, "MOCO", "torchvision"}

# Keys in a file for the images and strides with which its network was trained, and for the settings that are assumed.
SETTINGS_KEY, ASSUMED_KEY = "settings", "assumed"


@dataclass(frozen=True)
class Settings:
    """The images and strides with which weights were trained, as far as they are known.

    Attributes:
        values: the values by config key.
        assumed: the keys whose values cannot be determined from the file.
    """

    values: Mapping[str, Any]
    assumed: frozenset[str] = frozenset()

    @property
    def remedy(self) -> str:
        """The settings as they are written on a command line."""
        return ", ".join(f"{key} {value}" for key, value in self.values.items() if value is not None)


def required_config(encoder: Encoder) -> dict[str, Any]:
    """Return the settings that a detectron2 config requires to start from ``encoder``, unless they are defaults.

    The depth is always included, to identify the network.
    """
    defaults = dict(get_cfg().MODEL.RESNETS)
    special = {
        key: value
        for key, value in resnet_config(encoder.arch).items()
        if key == "MODEL.RESNETS.DEPTH" or value != defaults[key.rpartition(".")[2]]
    }
    return dict(encoder_settings(encoder).values) | special


def encoder_settings(encoder: Encoder) -> Settings:
    """Return the images and strides with which an encoder was trained.

    The tensors show whether images are greyscale, and blocks without 1x1 convolutions have only one possible position
    for the stride. The other settings are known only for mocodet's own checkpoints. For other checkpoints they are
    assumed, although their authors may have chosen different values.
    """
    grey = encoder.channels == 1
    values = GREY_CONFIG if grey else REQUIRED_CONFIG
    known = {FORMAT_KEY} if grey else set()
    if not ARCHITECTURES[encoder.arch].bottleneck:
        known.add(STRIDE_KEY)
    return Settings(dict(values), frozenset() if encoder.is_ours else frozenset(values.keys() - known))


def resnet_config(arch: str) -> dict[str, int]:
    """Return the settings that turn detectron2's ResNet into ``arch``, a key of `ARCHITECTURES`."""
    shape = ARCHITECTURES[arch]
    return {
        "MODEL.RESNETS.DEPTH": shape.depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": shape.stem_channels,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": shape.layer1_channels,
        "MODEL.RESNETS.NUM_GROUPS": shape.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": shape.inner_channels // shape.groups,
    }


def stored_settings(content: Mapping[str, Any]) -> Settings:
    """Return the settings in a file from mocodet or of torchvision's networks, loaded by detectron2's checkpointer."""
    if isinstance(values := content.get(SETTINGS_KEY), Mapping):
        assumed = content.get(ASSUMED_KEY, ())
        return Settings(values, frozenset(assumed if isinstance(assumed, list) else ()))
    if content.get("__author__") in TORCHVISION_AUTHORS:
        return Settings(REQUIRED_CONFIG, frozenset(REQUIRED_CONFIG))
    return Settings({})


def settings_of(path: str | PathLike) -> Settings:
    """Return the settings of the weights in any file supported by ``MODEL.WEIGHTS``; empty if none are known.

    Raises:
        ValueError: the file is damaged.
    """
    if str(path).endswith(".pkl"):
        return stored_settings(load_array_pickle(path))
    loaded = load_torch_file(path)
    if isinstance(loaded, Mapping) and SETTINGS_KEY in loaded:
        return stored_settings(loaded)
    if holds_encoder(loaded):
        with contextlib.suppress(ValueError):  # loading reports the error, if it also detects an encoder
            return encoder_settings(extract_encoder(loaded))
    return Settings({})


def refuse_other_format(theirs: Settings, ours: str | None) -> None:
    """Reject weights for images whose channels differ from the model's in number or order.

    Raises:
        ValueError: the weights are known to be for an ``INPUT.FORMAT`` other than ``ours``. None means that it is
            unknown.
    """
    wanted = theirs.values.get(FORMAT_KEY)
    is_known = FORMAT_KEY not in theirs.assumed or FORMATS[1] in (wanted, ours)
    if wanted and ours and wanted != ours and is_known:
        raise ValueError(
            f"the weights were trained on images of {FORMAT_KEY} {wanted}, but the config has {ours}; set"
            f" {theirs.remedy}, or use the config's variant for such weights (_moco for mocodet's)"
        )
