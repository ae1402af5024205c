"""Two hundred damaged, hostile and foreign files through the command: one line of error, no file, no code run."""

import argparse
import builtins
import codecs
import contextlib
import datetime
import functools
import gzip
import io
import json
import os
import pickle
import random
import struct
import subprocess
import tarfile
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import nn

from mocodet.common.encoders.resnet import build_resnet
from tests.commands import convert
from tests.processes import forking

CANARY = "canary"  # what code from a file would leave in the working directory

# The functions that numpy's pickles call; their modules differ between versions.
_reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float64(1).__reduce__()[0]
_frombuffer = np.zeros(1).__reduce_ex__(5)[0]

Files = dict[str, bytes]


def small_state(prefix: str = "encoder_q.") -> dict[str, torch.Tensor]:
    """A whole ResNet-18 whose tensors are one number each, so that its file is small."""
    with torch.device("meta"):
        state = build_resnet("resnet18", num_classes=16).state_dict()
    one = torch.tensor(0.01)
    return {
        prefix + name: torch.tensor(7) if name.endswith("num_batches_tracked") else one.expand(value.shape)
        for name, value in state.items()
    }


def checkpoint() -> dict[str, Any]:
    """A small version of a pre-training checkpoint."""
    state = {**small_state(), **small_state("encoder_k."), "queue": torch.zeros(2, 4)}
    return {"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}, "iteration": 9}


def saved(content: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def truncated() -> Files:
    """Cut short anywhere: in the first bytes, in the pickle, in the tensors, in the directory at the end of a zip."""
    generator = random.Random(0)
    wholes = {
        "zip": saved(checkpoint()),
        "old": saved(checkpoint(), zipped=False),
        "safetensors": safetensors.torch.save({name: value.clone() for name, value in small_state("").items()}),
    }
    files = {}
    for name, whole in wholes.items():
        lengths = [0, 1, 2, 8, 9, 100, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(13))]
        files |= {f"{name} cut at {length}": whole[:length] for length in lengths}
    return files


def flipped() -> Files:
    """One bit turned over: in a zip's signatures and in its parts, which have checksums; in safetensors' header."""
    generator = random.Random(1)
    whole = saved(checkpoint())
    signatures = [whole.rindex(b"PK\x05\x06"), whole.index(b"PK\x01\x02")]
    places = [start + byte for start in signatures for byte in range(4)]
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = [(part, archive.read(part)) for part in archive.infolist()]
    for part, content in (*parts[:1] * 10, *generator.sample(parts, 10)):  # the first is the pickle
        assert content
        places.append(whole.index(content, part.header_offset) + generator.randrange(len(content)))
    tensors = safetensors.torch.save({name: value.clone() for name, value in small_state("").items()})
    length = int.from_bytes(tensors[:8], "little")
    files = {}
    for number, place in enumerate(places):
        files[f"zip, byte {place} ({number})"] = with_flipped_bit(whole, place, generator.randrange(8))
    for number in range(3):
        files[f"safetensors, length, byte {number}"] = with_flipped_bit(tensors, number, generator.randrange(8))
    for number in range(17):
        place = 8 + generator.randrange(length)
        files[f"safetensors, byte {place} ({number})"] = with_flipped_bit(tensors, place, 7)  # no longer ASCII
    return files


def with_flipped_bit(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def unsound() -> Files:
    """Files that are whole, with an encoder that is not: shapes, missing and surplus tensors, values, kinds, two."""
    generator = random.Random(2)
    names = [n for n in small_state() if not n.endswith("num_batches_tracked") and not n.startswith("encoder_q.fc")]
    convolutions = [name for name in names if ".bn" not in name and "downsample.1" not in name]
    files = {}

    def put(label: str, change: Callable[[dict[str, Any]], object]) -> None:
        content = checkpoint()
        change(content["model"])
        files[label] = saved(content)

    def without(part: str) -> Callable[[dict[str, Any]], object]:
        return lambda state: [state.pop(name) for name in list(state) if part in name]

    def with_(name: str, value: object) -> Callable[[dict[str, Any]], object]:
        return lambda state: state.__setitem__(name, value)

    for name in generator.sample(convolutions, 6):
        put(f"{name} transposed", with_(name, torch.ones(3, 3, 5, 7)))
    for name in generator.sample(names, 6):
        put(f"{name} flat", with_(name, torch.ones(1)))
        put(f"{name} missing", without(name))
    for layer in (1, 2, 3, 4):
        put(f"no layer{layer}", without(f"encoder_q.layer{layer}."))
    put("no conv1", without("encoder_q.conv1."))
    put("no encoder", without("layer"))
    for value in (float("nan"), float("inf"), -float("inf")):
        for name in generator.sample(names, 2):
            shape = checkpoint()["model"][name].shape
            put(f"{name} is {value}", with_(name, torch.tensor(value).expand(shape)))
    put("negative variance", with_("encoder_q.bn1.running_var", torch.tensor(-1.0).expand(64)))
    for kind in (torch.int8, torch.int64, torch.bool, torch.complex64):
        put(f"of type {kind}", with_("encoder_q.bn1.bias", torch.ones(64, dtype=kind)))
    put("a list for a tensor", with_("encoder_q.bn1.bias", [1.0] * 64))
    put("text for a tensor", with_("encoder_q.bn1.bias", "ones"))
    put("None for a tensor", with_("encoder_q.bn1.bias", None))
    put("sparse", with_("encoder_q.bn1.bias", torch.ones(64).to_sparse()))
    put("without memory", with_("encoder_q.bn1.bias", torch.ones(64, device="meta")))
    put("a surplus tensor", with_("encoder_q.layer1.0.gate.weight", torch.ones(3)))
    put("channel attention", with_("encoder_q.layer1.0.se.fc1.weight", torch.ones(3, 3, 1, 1)))
    put("deep stem", with_("encoder_q.conv1.0.weight", torch.ones(32, 3, 3, 3)))
    put("group norm", without("running_"))
    put("a third encoder", lambda state: state.update(small_state("expert.")))
    files["student and teacher"] = saved({"state_dict": {**small_state("student."), **small_state("teacher.")}})
    files["two dicts"] = saved({"state_dict": small_state(""), "model": small_state("")})
    files["with and without a wrapper"] = saved({**small_state(""), **small_state("module.")})
    files["unknown place"] = saved({"weights": small_state("visual.")})
    return files


class Call:
    """Asks the unpickler to call something."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


class Build(Call):
    """Asks to be built by a call, and to be given a state."""

    def __init__(self, state: object, function: Callable, *arguments: object) -> None:
        super().__init__(function, *arguments)
        self.state = state

    def __reduce__(self) -> tuple:
        return self.function, self.arguments, self.state


PYTHON = f"open({CANARY!r}, 'w').close()"
CALLS: dict[str, tuple] = {
    "os.system": (os.system, f"touch {CANARY}"),
    "os.mkdir": (os.mkdir, CANARY),
    "exec": (builtins.exec, PYTHON),
    "eval": (builtins.eval, PYTHON),
    "open": (builtins.open, CANARY, "w"),
    "subprocess": (subprocess.check_call, ["touch", CANARY]),
    "path": (Path.touch, Path(CANARY)),
    "partial": (functools.partial(os.mkdir, CANARY),),
    "import": (builtins.__import__, "antigravity_of_no_library"),
    "numpy": (np.save, f"{CANARY}.npy", 1),
    "torch": (torch.save, 1, CANARY),
    "getattr": (builtins.getattr, "text", "upper"),
}


def hostile() -> Files:
    """Pickles that would run code, wherever in a checkpoint it stands, and objects that need code to be rebuilt."""
    files = {}
    for name, (function, *arguments) in CALLS.items():
        call = Call(function, *arguments)
        files[f"{name} for args"] = saved({**checkpoint(), "args": call})
        files[f"{name} for a tensor, old format"] = saved({"model": {**small_state(), "queue": call}}, zipped=False)
        files[f"{name}, bare pickle"] = pickle.dumps({"model": call}, protocol=2)
    for protocol in (0, 4):
        files[f"bare pickle of protocol {protocol}"] = pickle.dumps(Call(os.mkdir, CANARY), protocol=protocol)
    files["in arguments of a script"] = saved({**checkpoint(), "args": argparse.Namespace(a=Call(os.mkdir, CANARY))})
    files["in the state of arguments"] = saved(
        {**checkpoint(), "args": Build({"key": Call(os.mkdir, CANARY)}, argparse.Namespace)}
    )
    files["in an array"] = saved({**checkpoint(), "args": np.array([Call(os.mkdir, CANARY)])})
    files["for a name"] = saved({"model": small_state(), Call(os.mkdir, CANARY): 1})
    files["a whole network"] = saved(nn.Sequential(nn.Conv2d(3, 4, 7), nn.BatchNorm2d(4)))
    files["a function"] = saved({**checkpoint(), "augment": torchvision.models.resnet18})
    files["a class"] = saved({**checkpoint(), "optimizer": torch.optim.SGD})
    files["a date"] = saved({**checkpoint(), "when": datetime.date(2020, 6, 13)})
    return files


def forged() -> dict[str, object]:
    """Numbers and arrays whose types, shapes and bytes do not go together: read as they ask, they are wild pointers."""
    address = b"AAAAAAA\0"
    numbers = (np.dtype, "f8", False, True)
    objects = Build((3, "|", None, None, None, -1, -1, 63), np.dtype, "O8", False, True)
    types = {
        "objects": objects,
        "objects by another name": Build((3, "<", (objects, ()), None, None, 8, 8, 0), *numbers),
        "numbers by another name": Build((3, "<", (np.dtype("f8"), ()), None, None, 8, 8, 0), *numbers),
        "named objects": Build((3, "|", None, ("a",), {"a": (objects, 0)}, 8, 8, 0), *numbers),
        "names": Build((3, "|", None, ("a",), None, 8, 8, 0), *numbers),
        "structure": Build((3, "|", None, ("a",), {"a": (np.dtype("f8"), 0)}, 8, 8, 0), np.dtype, "V8", False, True),
        "text": np.dtype("U2"),
        "date": np.dtype("M8[s]"),
        "no type": "f8",
    }
    empty = (_reconstruct, np.ndarray, (0,), b"b")
    states = {
        "a petabyte": ((10**15,), np.dtype("f8"), bytes(8)),
        "too much": ((9,), np.dtype("f8"), bytes(8)),
        "too little": ((1,), np.dtype("f8"), bytes(800)),
        "overflow": ((2**32, 2**32), np.dtype("f8"), bytes(8)),
        "negative": ((-1, -1), np.dtype("f8"), bytes(8)),
        "list": ((1,), np.dtype("f8"), [1.0]),
    }
    return {
        **{f"number of {name}": Call(scalar, kind, address) for name, kind in types.items()},
        **{f"array of {name}": Build((1, (1,), kind, False, address), *empty) for name, kind in types.items()},
        **{f"array, {name}": Build((1, *state[:2], False, state[2]), *empty) for name, state in states.items()},
        "number too long": Call(scalar, np.dtype("f8"), bytes(80)),
        "number too short": Call(scalar, np.dtype("f8"), bytes(4)),
        "array of another class": Call(_reconstruct, np.matrix, (0,), b"b"),
        "arguments of another class": Build((None, {"__class__": np.ndarray}), argparse.Namespace),
    }


def forged_numbers() -> Files:
    return {name: saved({**checkpoint(), "metric": content}) for name, content in forged().items()}


def forged_arrays() -> Files:
    """The same for the reader of detectron2's pickles, which offers more ways to call code."""
    contents = forged()
    kinds = {name: call.arguments[0] for name, call in contents.items() if name.startswith("number of")}
    for name, kind in kinds.items():
        buffer = Call(_frombuffer, b"AAAAAAA\0", kind, (1,), "C")
        contents[f"{name}, buffer"] = buffer
        contents[f"{name}, buffer in a dict"] = Call(OrderedDict, buffer)
    contents["another encoding"] = Call(codecs.encode, b"text", "bz2")
    contents["an encoding of no text"] = Call(codecs.encode, "text", "rot13")
    files = {
        name: pickle.dumps({"model": {}, "x": content, "__author__": "me"}, protocol=2)
        for name, content in contents.items()
    }
    claim = struct.pack("<Q", 10**15)
    files |= {f"claims by opcode {code}": b"\x80\x05" + bytes([code]) + claim for code in (0x8D, 0x8E, 0x95, 0x96)}
    for name in ("numpy\ndtype", "collections\nOrderedDict", "numpy.core.multiarray\nscalar", "_codecs\nencode"):
        files[f"state for {name.split()[1]} itself"] = b"\x80\x02c" + name.encode() + b"\nN}X\1\0\0\0aK\1s\x86b."
    return files


def image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, kind)
    return buffer.getvalue()


def archive(kind: str, name: str = "readme.txt", content: bytes = b"hello") -> bytes:
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    else:
        with zipfile.ZipFile(buffer, "w") as zipped:
            zipped.writestr(name, content)
    return buffer.getvalue()


def headed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of safetensors with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def scripted() -> bytes:
    buffer = io.BytesIO()
    with torch.no_grad():
        traced = torch.jit.trace(nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8))
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def foreign() -> Files:
    """What is no checkpoint of a ResNet at all."""
    generator = random.Random(3)
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    numbers = io.BytesIO()
    np.savez(numbers, weight=np.ones(3))
    vit = {
        "cls_token": torch.zeros(1, 1, 4),
        "pos_embed": torch.zeros(1, 5, 4),
        "patch_embed.proj.weight": torch.zeros(4, 3, 2, 2),
        **{f"blocks.{i}.attn.qkv.weight": torch.zeros(12, 4) for i in range(12)},
    }
    vgg = {f"features.{i}.weight": torch.zeros(2, 2, 3, 3) for i in (0, 2, 5)}
    detector = {
        "backbone.bottom_up.res2.0.conv1.weight": torch.zeros(2),
        "roi_heads.box_head.fc1.weight": torch.zeros(2),
    }
    return {
        "text": b"conv1.weight 0.1 0.2\n" * 40,
        "json": json.dumps({"state_dict": {"conv1.weight": [1.0]}}).encode(),
        "yaml": b"MODEL:\n  WEIGHTS: model.pth\n",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 102530333\n",
        "zeros": bytes(5000),
        "noise": generator.randbytes(5000),
        "png": image("PNG"),
        "jpeg": image("JPEG"),
        "gzip": gzip.compress(saved({"model": small_state()})),
        "zip": archive("zip"),
        "zip with a checkpoint": archive("zip", "model.pth", saved({"model": small_state()})),
        "tar": archive("tar"),
        "tar with a checkpoint": archive("tar", "model.pth", saved({"model": small_state()})),
        "numpy": numbers.getvalue(),
        "TorchScript": scripted(),
        "pickle of a list": pickle.dumps([1, 2], protocol=2),
        "pickle of arrays": pickle.dumps({"model": {"conv1.weight": np.ones(3)}}),
        "a tensor": saved(torch.ones(3)),
        "a list": saved([torch.ones(3)]),
        "a number": saved(3),
        "nothing": saved(None),
        "an empty dict": saved({}),
        "an empty model": saved({"model": {}}),
        "numbers for names": saved({0: torch.ones(3), 1: torch.ones(3)}),
        "an optimizer": saved(torch.optim.SGD([torch.ones(3)], lr=0.1).state_dict()),
        "ViT": saved(vit),
        "ViT in a teacher": saved({"teacher": {f"backbone.{name}": value for name, value in vit.items()}}),
        "ViT in safetensors": safetensors.torch.save(vit),
        "VGG": saved(vgg),
        "a detector of detectron2": saved({"model": detector, "iteration": 3}),
        "safetensors, no header": headed(b""),
        "safetensors, empty": headed({}),
        "safetensors, long header": headed({"a": tensor}, bytes(4), length=1 << 31),
        "safetensors, longer header": headed({"a": tensor}, bytes(4), length=(1 << 64) - 1),
        "safetensors, list": headed([tensor], bytes(4)),
        "safetensors, no JSON": headed(b'{"a": ', bytes(4)),
        "safetensors, no data": headed({"a": tensor}),
        "safetensors, too much data": headed({"a": tensor}, bytes(40)),
        "safetensors, overlap": headed({"a": tensor, "b": tensor}, bytes(4)),
        "safetensors, backwards": headed({"a": {**tensor, "data_offsets": [4, 0]}}, bytes(4)),
        "safetensors, no such type": headed({"a": {**tensor, "dtype": "F31"}}, bytes(4)),
        "safetensors, other shape": headed({"a": {**tensor, "shape": [9]}}, bytes(4)),
        "safetensors, negative shape": headed({"a": {**tensor, "shape": [-1]}}, bytes(4)),
    }


KINDS: dict[str, Callable[[], Files]] = {
    "truncated": truncated,
    "flipped": flipped,
    "unsound": unsound,
    "hostile": hostile,
    "foreign": foreign,
    "forged numbers": forged_numbers,
    "forged arrays": forged_arrays,
}


@functools.cache
def files_of(kind: str) -> Files:
    return KINDS[kind]()


def test_files__two_hundred_at_least() -> None:
    assert sum(len(files_of(kind)) for kind in KINDS) >= 200


def test_files__are_sound_before_they_are_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the tests below could not fail."""
    tensors = safetensors.torch.save({name: value.clone() for name, value in small_state("").items()})
    for content in (saved(checkpoint()), saved(checkpoint(), zipped=False), tensors):
        (tmp_path / "in.pth").write_bytes(content)
        convert([str(tmp_path / "in.pth"), str(tmp_path / "out.pkl")])
        assert "Verified" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("import", "getattr", "partial")])
def test_files__hostile_ones_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    function, *arguments = CALLS[name]
    pickle.loads(pickle.dumps({"model": Call(function, *arguments)}, protocol=2))
    assert [path.name.removesuffix(".npy") for path in tmp_path.iterdir()] == [CANARY]


@dataclass(frozen=True)
class Outcome:
    """How the command ended, what it printed, which files it left behind."""

    message: object
    printed: str
    left: list[Path]


def outcomes(kind: str, folder: Path) -> dict[str, Outcome]:
    """Run the command on each file of a kind; meant for a process of its own, which a bad pointer may end."""
    warnings.simplefilter("ignore")
    work, output, temporary = (folder / name for name in ("work", "output", "temporary"))
    for place in (work, output, temporary):
        place.mkdir()
    os.chdir(work)
    tempfile.tempdir = str(temporary)
    back = kind == "forged arrays"
    source = folder / ("in.pkl" if back else "in.pth")
    arguments = ["--to", "torchvision", str(output / "out.pth")] if back else [str(output / "out.pkl")]
    found = {}
    for label, content in files_of(kind).items():
        source.write_bytes(content)
        message: object = "not refused"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                convert([str(source), *arguments])
            except SystemExit as end:
                message = end.code  # Python prints a text on stderr and exits with status 1
        left = [path for place in (work, output, temporary) for path in place.iterdir()]
        found[label] = Outcome(message, printed.getvalue(), left)
    return found


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """Another process: one that a bad pointer ends fails a test here, and not the whole run of pytest."""
    with ProcessPoolExecutor(1, forking()) as pool:
        yield pool


@pytest.mark.parametrize("kind", KINDS)
def test_main__one_line_of_error_and_no_file(tmp_path: Path, process: ProcessPoolExecutor, kind: str) -> None:
    found = process.submit(outcomes, kind, tmp_path).result()
    assert found.keys() == files_of(kind).keys()
    for label, outcome in found.items():
        assert isinstance(outcome.message, str), label
        assert outcome.message.startswith(f"error: {tmp_path}/in.p"), (label, outcome.message)
        assert len(outcome.message.splitlines()) == 1, (label, outcome.message)
        assert (outcome.printed, outcome.left) == ("", []), label
        if kind.startswith("forged"):
            assert "cannot be read as" in outcome.message, (label, outcome.message)
