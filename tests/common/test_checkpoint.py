import io
import pickle
import random
from pathlib import Path

import pytest
import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from mocodet.common.checkpoint import AtomicSaveMixin, last_checkpoint, load_torch_file


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


def test_save__interrupted_write_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpointer = AtomicCheckpointer(nn.Linear(3, 2), str(tmp_path))
    checkpointer.save("model", iteration=1)
    before = (tmp_path / "model.pth").read_bytes()

    def full_disk(data, handle):
        handle.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save("model", iteration=2)
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_last_checkpoint__is_the_one_that_fvcore_finds(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no checkpoint; give the OUTPUT_DIR of a run"):
        last_checkpoint(tmp_path)
    checkpointer = AtomicCheckpointer(nn.Linear(3, 2), str(tmp_path))
    for name in ("first", "second"):
        checkpointer.save(name)
    assert str(last_checkpoint(tmp_path)) == Checkpointer(nn.Linear(3, 2), str(tmp_path)).get_checkpoint_file()
    assert last_checkpoint(str(tmp_path)).name == "second.pth"
    (tmp_path / "second.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"second\.pth, which last_checkpoint beside it names, is not there"):
        last_checkpoint(tmp_path)


def test_load_torch_file__missing_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_torch_file(tmp_path / "nothing.pth")


def test_load_torch_file__damaged_in_any_way(tmp_path):
    content = saved(tmp_path)
    path = tmp_path / "model.pth"
    generator = random.Random(0)
    variants = [content[:length] for length in (0, 1, 10, 100, len(content) // 2, len(content) - 1)]
    variants += [b"not a checkpoint", generator.randbytes(3000), content[50:], pickle.dumps(print)]
    for variant in variants:
        path.write_bytes(variant)
        with pytest.raises(ValueError, match=r"model\.pth cannot be read as a checkpoint") as caught:
            load_torch_file(path)
        assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_load_torch_file__runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "evil.pth")
    Path("ran").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"evil\.pth cannot be read"):
        load_torch_file("evil.pth")
    assert not Path("ran").exists()
