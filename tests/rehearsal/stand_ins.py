"""Creates stand-ins for pre-trained weights, with random values in the layouts of the real files."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import resnet18, resnet50

from mocodet.common.files import atomic_open
from mocodet.detection.weights.convert import convert_file, detectron2_name


@dataclass(frozen=True)
class StandIn:
    """The initial weights of a variant: a file ("" for none) and a description for the table."""

    file: str
    description: str


def make_stand_ins(folder: Path) -> dict[str, StandIn]:
    """Write ResNets with random values to ``folder``: a ResNet-50 for each variant, and a ResNet-18.

    The supervised weights have the Caffe2 layout of MSRA's R-50.pkl, the MoCo weights were converted with the
    converter, and the COCO weights are a detector of detectron2's model zoo that is reduced to its ResNet.

    Returns:
        the stand-ins by the name of the variant: ``"supervised"``, ``"coco"``, ``"moco"``, ``"random"``, and
        ``"toy_moco"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    encoder = resnet50().state_dict()
    return {
        "supervised": StandIn(_write_caffe2(encoder, folder / "msra.pkl"), "stand-in, Caffe2 layout"),
        "coco": StandIn(_write_zoo(encoder, folder / "zoo.pkl"), "stand-in, detectron2's zoo"),
        "moco": StandIn(_write_moco(encoder, folder / "moco.pkl"), "stand-in, converted"),
        "random": StandIn("", "none"),
        "toy_moco": StandIn(_write_moco(resnet18().state_dict(), folder / "toy_moco.pkl"), "stand-in, converted"),
    }


def _write_moco(encoder: Mapping[str, Tensor], path: Path) -> str:
    original = path.with_suffix(".pth.tar")
    state = {f"module.encoder_q.{name}": value for name, value in encoder.items()}
    with atomic_open(original) as handle:
        torch.save({"epoch": 0, "state_dict": state}, handle)
    convert_file(original, path)
    return str(path.resolve())


def _write_zoo(encoder: Mapping[str, Tensor], path: Path) -> str:
    arrays = {f"backbone.{detectron2_name(n)}": v.numpy() for n, v in encoder.items() if is_in_caffe2(n)}
    with atomic_open(path) as handle:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, handle)
    return str(path.resolve())


def _write_caffe2(encoder: Mapping[str, Tensor], path: Path) -> str:
    arrays = {caffe2_name(detectron2_name(n)): v.numpy() for n, v in encoder.items() if is_in_caffe2(n)}
    with atomic_open(path) as handle:
        pickle.dump(arrays, handle)
    return str(path.resolve())


def is_in_caffe2(name: str) -> bool:
    """Return whether a parameter of torchvision's ResNet has a counterpart in MSRA's file."""
    return not name.startswith("fc.") and not name.endswith("num_batches_tracked")


def caffe2_name(name: str) -> str:
    """Convert a parameter name of detectron2's ResNet: ``res2.0.conv1.norm.weight`` -> ``res2_0_branch2a_bn_s``."""
    name = name.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.", "").replace(".norm", "_bn")
    name = name.replace("shortcut", "branch1")
    name = re.sub(r"(?<=\d\.)conv([123])", lambda match: "branch2" + "abc"[int(match[1]) - 1], name)
    for ending, short in (("_bn.weight", "_bn_s"), (".weight", "_w"), (".bias", "_b")):
        name = name.replace(ending, short)
    return name.replace(".running_mean", "_rm").replace(".running_var", "_riv").replace(".", "_")
