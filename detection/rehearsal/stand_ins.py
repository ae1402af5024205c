"""Stand-ins for pre-trained weights: random values in the layouts of the real files."""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models import resnet50

from mocodet.common.files import atomic_open

from ..convert import convert_file, detectron2_name


@dataclass(frozen=True)
class StandIn:
    """What a twin starts from: a file ("" for none), and what to call it in a table."""

    file: str
    description: str


def make_stand_ins(folder: Path) -> dict[str, StandIn]:
    """Write a ResNet-50 of random values into ``folder`` for each kind of twin: supervised, moco and random.

    The supervised one has the Caffe2 layout of MSRA's R-50.pkl, that of MoCo has gone through the converter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    encoder = resnet50().state_dict()
    original, converted, caffe2 = folder / "moco.pth.tar", folder / "moco.pkl", folder / "msra.pkl"
    moco = {f"module.encoder_q.{name}": value for name, value in encoder.items()}
    with atomic_open(original) as handle:
        torch.save({"epoch": 0, "arch": "resnet50", "state_dict": moco}, handle)
    convert_file(original, converted)
    arrays = {caffe2_name(detectron2_name(n)): v.numpy() for n, v in encoder.items() if is_in_caffe2(n)}
    with atomic_open(caffe2) as handle:
        pickle.dump(arrays, handle)
    return {
        "supervised": StandIn(str(caffe2.resolve()), "stand-in, Caffe2 layout"),
        "moco": StandIn(str(converted.resolve()), "stand-in, converted"),
        "random": StandIn("", "none"),
    }


def is_in_caffe2(name: str) -> bool:
    """Tell whether a torchvision ResNet's parameter has a counterpart in MSRA's file."""
    return not name.startswith("fc.") and not name.endswith("num_batches_tracked")


def caffe2_name(name: str) -> str:
    """Translate a detectron2 ResNet's parameter name: ``res2.0.conv1.norm.weight`` -> ``res2_0_branch2a_bn_s``."""
    name = name.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.", "").replace(".norm", "_bn")
    name = name.replace("shortcut", "branch1")
    name = re.sub(r"(?<=\d\.)conv([123])", lambda match: "branch2" + "abc"[int(match[1]) - 1], name)
    for ending, short in (("_bn.weight", "_bn_s"), (".weight", "_w"), (".bias", "_b")):
        name = name.replace(ending, short)
    return name.replace(".running_mean", "_rm").replace(".running_var", "_riv").replace(".", "_")
