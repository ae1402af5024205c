import json
from pathlib import Path

import pytest
import torch

from mocodet.common import files, locks
from mocodet.common.files import atomic_open, drop_half_line, remove_leftovers, write_json
from tests.faults import files_of_at_most


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def write_half(path: Path) -> None:
    with atomic_open(path) as handle:
        handle.write(b"half of the n")
        raise KeyboardInterrupt


def test_atomic_open__file_appears_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_open(path, "w") as handle:
        handle.write("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode
    assert names(path.parent) == ["file.txt"]


def test_atomic_open__failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", ["r", "a", "rb+"])
def test_atomic_open__other_modes(tmp_path, mode):
    with pytest.raises(ValueError, match="mode must be 'w' or 'wb'"), atomic_open(tmp_path / "file", mode):
        pass


@pytest.mark.parametrize("written", ["bytes", "text", "torch.save"])
def test_atomic_open__full_disk_is_named_whatever_the_writer_makes_of_it(tmp_path, written):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_open(path, "w" if written == "text" else "wb") as handle:
            if written == "torch.save":
                torch.save({"tensor": torch.zeros(100_000)}, handle)
            else:
                handle.write("x" * 100_000 if written == "text" else bytes(100_000))

    with files_of_at_most(1 << 16), pytest.raises(OSError, match=r"File too large\. An existing file") as caught:
        write()
    assert str(caught.value).startswith(f"{path} could not be written")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_atomic_open__an_error_of_the_block_is_not_the_disks(tmp_path):
    with pytest.raises(FileNotFoundError, match="another file"), atomic_open(tmp_path / "file"):
        raise FileNotFoundError("another file")


@pytest.mark.parametrize("holds", [False, True])
def test_atomic_open__when_another_process_takes_its_new_file_for_a_leftover(tmp_path, monkeypatch, holds):
    """The other one opens the file before it is locked here, and removes it, or is about to."""
    flock = locks.fcntl.flock

    def too_late(*how):
        monkeypatch.undo()
        if holds:
            raise BlockingIOError
        remove_leftovers(tmp_path)
        return flock(*how)

    monkeypatch.setattr(locks.fcntl, "flock", too_late)
    with atomic_open(tmp_path / "file") as handle:
        handle.write(b"new")
        assert locks.fcntl.flock is flock
        remove_leftovers(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"new"


def test_remove_leftovers__of_killed_processes_alone(tmp_path, caplog):
    kept = [".hidden.tmp", "model.pth", ".cache.abc.tmp"]
    left = [".model_0001.pth.a1b2c3_d.tmp", "inference/.results.json.abcdefgh.tmp"]
    (tmp_path / "inference").mkdir()
    for name in kept + left:
        (tmp_path / name).write_bytes(b"12345")
    with caplog.at_level("INFO"), atomic_open(tmp_path / "model_0002.pth") as handle:
        handle.write(b"whole")
        remove_leftovers(tmp_path)
    assert sorted(names(tmp_path)) == sorted([*kept, "inference", "model_0002.pth"])
    assert names(tmp_path / "inference") == []
    assert [message.split()[1:4] for message in caplog.messages] == [
        [str(tmp_path / name), "(5", "bytes),"] for name in left
    ]
    assert (tmp_path / "model_0002.pth").read_bytes() == b"whole"


def test_write_json__whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"top1": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"top1": 2.5, "top5": float("nan")})
    assert json.loads(path.read_text()) == {"top1": 1.5}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"half", b""),
        (b"\n", b"\n"),
        (b'{"a": 1}\n{"b": 2}\n', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}\n{"b"', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n'),  # whether it is whole, nobody can know
        (b"long line\n" + b"x" * 20, b"long line\n"),
    ],
)
def test_drop_half_line__leaves_whole_lines(tmp_path, monkeypatch, caplog, content, kept):
    monkeypatch.setattr(files, "BLOCK", 7)
    path = tmp_path / "metrics.json"
    drop_half_line(path)
    assert names(tmp_path) == []
    path.write_bytes(content)
    drop_half_line(path)
    assert path.read_bytes() == kept
    dropped = [f"{path} ended in an incomplete line of {len(content) - len(kept)} bytes, which was removed"]
    assert caplog.messages == (dropped if kept != content else [])
