import argparse
import copy
import io
import pickle
import random
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import safetensors.torch
import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from mocodet.common.checkpoint import AtomicSaveMixin, last_checkpoint, load_torch_file
from tests.faults import files_of_at_most


class AtomicCheckpointer(AtomicSaveMixin, Checkpointer):
    pass


def saved(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.arange(100.0)}, "iteration": 3}, buffer)
    return buffer.getvalue()


def test_save__same_content_as_fvcore(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    files = []
    for kind in (AtomicCheckpointer, Checkpointer):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        kind(model, str(folder), optimizer=optimizer).save("model_0000004", iteration=4)
        assert (folder / "last_checkpoint").read_text() == "model_0000004.pth"
        files.append(torch.load(folder / "model_0000004.pth", weights_only=True))
    mine, theirs = files
    assert mine.keys() == theirs.keys() == {"model", "optimizer", "iteration"}
    assert mine["optimizer"] == theirs["optimizer"]
    assert all(torch.equal(mine["model"][name], theirs["model"][name]) for name in theirs["model"])


def test_save__full_disk_keeps_the_previous_checkpoint_and_says_how_to_go_on(tmp_path):
    checkpointer = AtomicCheckpointer(nn.Linear(300, 100), str(tmp_path))
    with files_of_at_most(1 << 16), pytest.raises(OSError, match=r"No earlier checkpoint exists$"):
        checkpointer.save("model_1", iteration=1)
    checkpointer.save("model_2", iteration=2)
    before = (tmp_path / "model_2.pth").read_bytes()
    with files_of_at_most(1 << 16), pytest.raises(OSError, match="File too large") as caught:
        checkpointer.save("model_3", iteration=3)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/model_3.pth could not be written: ")
    assert message.endswith(f". --resume continues from {tmp_path}/model_2.pth, which is intact")
    assert "\n" not in message
    assert (tmp_path / "model_2.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_2.pth"]


def test_last_checkpoint__is_the_one_that_fvcore_finds(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} contains no checkpoint; specify the OUTPUT_DIR of a"):
        last_checkpoint(tmp_path)
    checkpointer = AtomicCheckpointer(nn.Linear(3, 2), str(tmp_path))
    for name in ("first", "second"):
        checkpointer.save(name)
    assert str(last_checkpoint(tmp_path)) == Checkpointer(nn.Linear(3, 2), str(tmp_path)).get_checkpoint_file()
    assert last_checkpoint(str(tmp_path)).name == "second.pth"
    (tmp_path / "second.pth").unlink()
    for content in (b"second.pth", b"\xff\na", b"a" * 5000):
        (tmp_path / "last_checkpoint").write_bytes(content)
        with pytest.raises(
            FileNotFoundError, match=rf"^{tmp_path}/[^\n]* does not exist, although the last_checkpoint"
        ):
            last_checkpoint(tmp_path)


def test_load_torch_file__missing_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_torch_file(tmp_path / "nothing.pth")


def test_load_torch_file__damaged_in_any_way(tmp_path):
    content = saved(tmp_path)
    path = tmp_path / "model.pth"
    generator = random.Random(0)
    variants = [content[:length] for length in (3, 10, 100, len(content) // 2, len(content) - 1)]
    variants += [b"not a checkpoint\0", generator.randbytes(3000), content[50:], pickle.dumps(print)]
    for variant in variants:
        path.write_bytes(variant)
        with pytest.raises(ValueError, match=r"model\.pth cannot be read as a checkpoint") as caught:
            load_torch_file(path)
        assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("bomb", ["compressed", "overlapping"])
def test_load_torch_file__does_not_unpack_what_grows(tmp_path, monkeypatch, bomb):
    path = tmp_path / "bomb.pth"
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *_: pytest.fail("unpacked"))
    if bomb == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(1 << 20))
    else:  # many names for the same bytes
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data/0", bytes(1 << 12))
            for number in range(1, 20):
                again = copy.copy(archive.filelist[0])
                again.filename = f"archive/data/{number}"
                archive.filelist.append(again)
            archive._didModify = True
    with pytest.raises(
        ValueError, match=r"bomb\.pth cannot be read .*(compressed members|larger than the file)"
    ) as caught:
        load_torch_file(path)
    assert "\n" not in str(caught.value)


def test_load_torch_file__runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "evil.pth")
    Path("ran").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"evil\.pth cannot be read"):
        load_torch_file("evil.pth")
    assert not Path("ran").exists()


def stored(tmp_path, content, **options):
    torch.save(content, tmp_path / "model.pth", **options)
    return load_torch_file(tmp_path / "model.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_load_torch_file__what_public_checkpoints_hold(tmp_path, zipped):
    """Arguments of the script, paths, numpy's numbers and arrays: data, which runs nothing."""
    arguments = argparse.Namespace(lr=np.float64(0.3), out=Path("out/run"), nested={"epochs": np.int64(800)}, amp=True)
    found = stored(
        tmp_path,
        {"args": arguments, "best": np.float32(0.5), "flag": np.bool_(True), "losses": np.arange(6.0).reshape(2, 3)},
        _use_new_zipfile_serialization=zipped,
    )
    assert vars(found["args"]) == {**vars(arguments), "out": PurePosixPath("out/run")}
    assert (found["best"], found["flag"]) == (np.float32(0.5), True)
    assert found["losses"].dtype == np.float64
    assert found["losses"].tolist() == [[0, 1, 2], [3, 4, 5]]


def library_class(module: str, name: str, base: type = object) -> type:
    """A class that pickles as one of a library that is not installed."""
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def test_load_torch_file__objects_of_libraries_that_are_not_installed(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = library_class(module.__name__, "HistoryBuffer")
    lightning = types.ModuleType("lightning_fabric.utilities.data")
    lightning.AttributeDict = library_class(lightning.__name__, "AttributeDict", dict)
    record = module.HistoryBuffer()
    record._log_history = np.ones(3)
    with monkeypatch.context() as patch:
        for made in (module, lightning):
            for package in (made.__name__.rsplit(".", depth)[0] for depth in (2, 1)):
                patch.setitem(sys.modules, package, types.ModuleType(package))
            patch.setitem(sys.modules, made.__name__, made)
        torch.save({"loss": record, "hparams": lightning.AttributeDict(lr=0.1)}, tmp_path / "model.pth")
    found = load_torch_file(tmp_path / "model.pth")
    assert found["hparams"] == {"lr": 0.1}
    assert vars(found["loss"]) == {}


class Claims:
    """Pickles as a call of numpy's array type that asks for a petabyte."""

    def __reduce__(self):
        return np.ndarray, ((10**15,),)


@pytest.mark.parametrize("content", [np.array([Evil()]), np.array(["text"]), np.array([print]), np.dtype("O")])
def test_load_torch_file__arrays_of_objects(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"model\.pth cannot be read as a checkpoint"):
        stored(tmp_path, {"args": content})
    assert not Path("ran").exists()


class Covered:
    """Pickles as an OrderedDict with an attribute in the place of a method."""

    def __init__(self, *names: str) -> None:
        self.state = dict.fromkeys(names, 3)

    def __reduce__(self):
        return OrderedDict, ([["weight", 1]],), self.state


def test_load_torch_file__attributes_that_hide_methods(tmp_path):
    content = [{"model": Covered("items", "get", "_metadata")}]
    found = stored(tmp_path, content)[0]["model"]
    assert list(found.items()) == [("weight", 1)]
    assert found.get("weight") == 1
    assert found._metadata == 3  # torch's own, which hides nothing
    state = nn.BatchNorm1d(2).state_dict()
    assert stored(tmp_path, state)._metadata == state._metadata


def test_load_torch_file__no_memory_on_claims(tmp_path):
    assert stored(tmp_path, {"args": Claims()})["args"].size == 0


def test_load_torch_file__safetensors_by_content(tmp_path):
    tensors = {"conv1.weight": torch.randn(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / "model.pth"
    safetensors.torch.save_file(tensors, path)
    found = load_torch_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in found.items())


def test_load_torch_file__a_flipped_bit_of_a_weight(tmp_path):
    """torch.load itself would take it."""
    content = bytearray(saved(tmp_path))
    place = content.index(torch.arange(100.0).numpy().tobytes()) + 41
    content[place] ^= 1
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["model"]["weight"], torch.arange(100.0))
    with pytest.raises(ValueError, match=r"cannot be read .*archive/data/0 does not match its checksum"):
        load_torch_file(path)


def test_load_torch_file__says_what_is_asked_for_and_not_how_to_allow_it(tmp_path):
    with pytest.raises(
        ValueError, match=r"UnpicklingError: Unsupported global: GLOBAL print\); expected a torch"
    ) as caught:
        stored(tmp_path, {"hook": print})
    assert "safe_globals" not in str(caught.value)


def test_load_torch_file__truncated(tmp_path):
    content = saved(tmp_path)
    path = tmp_path / "model.pth"
    for length in (10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        for lazily in (True, False):
            with pytest.raises(
                ValueError, match=r"because it is truncated \(the end of .*\); download or copy it again$"
            ):
                load_torch_file(path, lazily=lazily)


def tar_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.mtime = 0.5  # in the header of PAX, which comes before the member
            archive.addfile(member)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Identity()), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of("model.pth"), "is a tar archive, not a checkpoint; unpack it and specify the checkpoint in it"),
        (
            tar_of("sys_info", "pickle", "tensors", "storages"),
            "is in torch's legacy tar format, which cannot be loaded safely; specify a file in a newer format",
        ),
        (
            scripted(),
            "is a TorchScript archive, not a checkpoint; specify a file with the model's state_dict(), written by"
            " torch.save",
        ),
    ],
)
def test_load_torch_file__archives_for_which_torch_recommends_unsafe_loading(tmp_path, content, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"Re-running `torch.load` with `weights_only` set to `False`"):
        torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match=r"not a checkpoint|legacy") as caught:
        load_torch_file(path)
    assert str(caught.value) == f"{path} {message}"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"Found a new format. {torch.serialization.UNSAFE_MESSAGE}", "RuntimeError: Found a new format."),
        ("Found this: Re-running with weights_only=False may help", "RuntimeError: Found this"),
        ("Cannot use weights_only=True with this. Do not", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_load_torch_file__advice_to_load_unsafely_is_left_out(tmp_path, monkeypatch, said, told):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint") as caught:
        stored(tmp_path, {"a": torch.zeros(1)})
    assert f"({told}); expected" in str(caught.value)
