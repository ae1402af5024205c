import errno
import gzip
import hashlib
import io
import os
import random
import shutil
import tarfile
import zipfile
import zlib
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from mocodet.common.prepare import archives as module
from mocodet.common.prepare import staging
from mocodet.common.prepare.archives import check_space, inside, is_unpacked, laid_out, marker, obtain, unpack
from mocodet.common.prepare.members import tar_of_tars
from tests.common.prepare.packed import FILES, KINDS, PLACED, archive_of, below, make_tar, make_zip


def test_inside():
    place = inside(("a/b", "x"), ("c", ""))
    assert [place(name) for name in ("a/b/1", "a/b/c/2", "a/bc/3", "c/4", "d")] == ["x/1", "x/c/2", None, "4", None]
    assert inside(("", "x"))("1/2") == "x/1/2"
    assert inside(("list.json", "y/list.json"))("list.json") == "y/list.json"


@pytest.mark.parametrize("name", KINDS)
def test_unpack__places_the_members(name, tmp_path):
    path, root = tmp_path / name, tmp_path / "root"
    path.write_bytes(KINDS[name])
    archive = archive_of(KINDS[name], name)
    assert not is_unpacked(archive, root)
    unpack(archive, path, root)
    assert is_unpacked(archive, root)
    assert below(root) == PLACED
    assert "2 files unpacked, 1 not needed" in marker(archive, root).read_text()
    shutil.rmtree(root / "mine")
    assert not is_unpacked(archive, root)


@pytest.mark.parametrize("name", KINDS)
def test_unpack__interrupted_nothing_is_in_place_and_it_goes_on(name, tmp_path, monkeypatch):
    path, root = tmp_path / name, tmp_path / "root"
    path.write_bytes(KINDS[name])
    archive = archive_of(KINDS[name], name)
    written = []
    copy = shutil.copyfileobj

    def fill_half(source, handle, length):
        written.append(Path(handle.name).name)
        if len(written) == 2:  # the second file is half there
            handle.write(source.read(700))
            raise KeyboardInterrupt
        copy(source, handle, length)

    monkeypatch.setattr(module.shutil, "copyfileobj", fill_half)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, path, root)
    assert not (root / "mine").exists()
    assert not is_unpacked(archive, root)
    unpack(archive, path, root)
    assert written == [".a.txt.part", ".b.txt.part", ".b.txt.part"]  # the first is not written again
    assert below(root) == PLACED


def test_unpack__interrupted_while_moving_into_place(tmp_path, monkeypatch):
    path, root = tmp_path / "a.zip", tmp_path / "root"
    path.write_bytes(KINDS["a.zip"])
    (root / "mine").mkdir(parents=True)  # an earlier archive has made it, so files are moved one by one
    (root / "mine/a.txt").write_bytes(b"old")
    (root / "mine/c.txt").write_bytes(b"of another archive")
    archive = archive_of(KINDS["a.zip"], "a.zip")
    rename = Path.replace

    def stop(source: Path, target: Path):
        if source.name == "b.txt":
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, path, root)
    monkeypatch.setattr(Path, "replace", rename)
    assert not is_unpacked(archive, root)
    assert laid_out(archive, root) == ()  # though its target is there
    unpack(archive, path, root)
    assert below(root) == {**PLACED, "mine/c.txt": b"of another archive"}


@pytest.fixture
def another_disk(tmp_path, monkeypatch) -> Path:
    """Make a folder that counts as another disk: nothing can be renamed into it from elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def device_of(path: Path) -> int:
        return int(path.resolve().is_relative_to(disk))

    def rename(source: Path, target: Path, original=Path.replace) -> Path:
        if device_of(source.parent) != device_of(Path(target).parent):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return original(source, target)

    for place in (module, staging):
        monkeypatch.setattr(place, "device_of", device_of)
    monkeypatch.setattr(Path, "replace", rename)
    return disk


@pytest.mark.parametrize("link", ["mine", "mine/deep"])
def test_unpack__into_a_folder_that_is_a_link_to_another_disk(link, tmp_path, another_disk):
    path, root = tmp_path / "a.tar", tmp_path / "root"
    content = make_tar({"top/data/a.txt": b"a", "top/data/deep/b.txt": b"b", "top/data/deep/c/d.txt": b"d"})
    path.write_bytes(content)
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(another_disk)
    unpack(archive_of(content, "a.tar"), path, root)
    assert (root / link).is_symlink()
    found = {place: (root / "mine" / place).read_bytes() for place in ("a.txt", "deep/b.txt", "deep/c/d.txt")}
    assert found == {"a.txt": b"a", "deep/b.txt": b"b", "deep/c/d.txt": b"d"}
    assert not list(tmp_path.rglob(".unpacking"))


def test_check_space__of_the_disk_that_a_link_leads_to(tmp_path, another_disk, monkeypatch):
    archive = replace(archive_of(b"x", "a.zip"), targets=("mine",))  # takes 3,000 bytes
    (tmp_path / "root").mkdir()
    (tmp_path / "root/mine").symlink_to(another_disk)
    free = {tmp_path / "root/mine": 3000, tmp_path / "root": 0}
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(free[path]))
    check_space([archive], tmp_path / "root", tmp_path)
    free[tmp_path / "root/mine"] = 2999
    with pytest.raises(OSError, match="root/mine has"):
        check_space([archive], tmp_path / "root", tmp_path)


def test_unpack__a_link_that_leads_nowhere(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(KINDS["a.tar"])
    (tmp_path / "mine").symlink_to(tmp_path / "gone")
    archive = archive_of(KINDS["a.tar"], "a.tar")
    for attempt in (lambda: check_space([archive], tmp_path, tmp_path), lambda: unpack(archive, path, tmp_path)):
        with pytest.raises(FileNotFoundError, match=r"the link points to .*gone, which does not exist.*mine"):
            attempt()


def test_unpack__of_a_damaged_or_an_exchanged_archive_nothing_is_kept(tmp_path, monkeypatch):
    path, root = tmp_path / "a.tar", tmp_path / "root"
    archive = archive_of(KINDS["a.tar"], "a.tar")
    other = KINDS["a.tar"].replace(b"a" * 1000, b"z" * 1000)
    path.write_bytes(other[:-8000])
    with pytest.raises(ValueError, match="remove it and download it again"):
        unpack(archive, path, root)
    assert not (root / ".unpacking").exists()
    path.write_bytes(other)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "sync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, path, root)
    assert list((root / ".unpacking").rglob("a.txt"))
    path.write_bytes(KINDS["a.tar"])  # of the same size
    os.utime(path, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "sync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, path, root)
    (waiting,) = (root / ".unpacking").rglob("a.txt")  # the other archive's file needs no space any more
    assert waiting.read_bytes() == PLACED["mine/a.txt"]
    unpack(archive, path, root)
    assert below(root) == PLACED


def linked_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("top/data/a.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return buffer.getvalue()


def linked_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("top/data/a.txt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def damaged_gz() -> bytes:
    """Change bytes that are stored uncompressed, so that only the checksum at the end reveals it."""
    content = bytearray(make_tar({"top/data/a.txt": random.Random(0).randbytes(40_000)}, "w:gz"))
    content[20_000:20_400] = bytes(400)
    return bytes(content)


def broken_gz() -> bytes:
    """Change bytes of a compressed stream so that it cannot be read from there on."""
    good = make_tar({"top/data/a.txt": str(list(range(200_000))).encode()}, "w:gz")
    for place in range(len(good) // 2, len(good)):
        content = good[:place] + b"\xff" * 40 + good[place + 40 :]
        try:
            gzip.decompress(content)
        except zlib.error:
            return content
        except (EOFError, OSError):  # it can be read, but is another one
            continue
    raise AssertionError("no such bytes")


EVIL = {
    "climbing tar": (make_tar({"top/data/../../../../evil": b"x"}), "would be written outside"),
    "climbing zip": (make_zip({"top/data/../../../../evil": b"x"}), "would be written outside"),
    "left out, but climbing": (make_tar({"../evil": b"x", **FILES}), "would be written outside"),
    "absolute": (make_tar({"/top/data/evil": b"x"}), "would be written outside"),
    "backslashes": (make_zip({"top/data\\..\\..\\evil": b"x"}), "would be written outside"),
    "drive": (make_zip({"C:/evil": b"x"}), "would be written outside"),
    "link in a tar": (linked_tar(), "is a link or a device"),
    "link in a zip": (linked_zip(), "is a link"),
    "truncated tar": (KINDS["a.tar"][:1800], "cannot be unpacked"),
    "tar truncated between files": (KINDS["a.tar"][:1536], "cannot be unpacked"),
    "tar truncated in a file": (KINDS["a.tar"][:3000], "cannot be unpacked"),
    "truncated tar.gz": (KINDS["a.tar.gz"][:-30], "cannot be unpacked"),
    "truncated zip": (KINDS["a.zip"][:-30], "cannot be unpacked"),
    "damaged tar.gz": (damaged_gz(), "CRC check failed"),
    "broken tar.gz": (broken_gz(), "cannot be unpacked: Error -3"),
    "damaged zip": (KINDS["a.zip"].replace(b"b" * 2000, b"c" * 2000), "Bad CRC-32"),
    "no archive": (b"<html>login</html>", "cannot be unpacked"),
    "another archive": (make_tar({"top/data/c.txt": b"c"}), r"does not contain mine/a\.txt"),
}


@pytest.mark.parametrize("name", EVIL)
def test_unpack__refuses(name, tmp_path):
    content, message = EVIL[name]
    path, root = tmp_path / "deep" / "er" / "archive", tmp_path / "deep" / "er" / "root"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    archive = archive_of(content, "archive")
    with pytest.raises(ValueError, match=message) as caught:
        unpack(archive, path, root)
    assert str(path) in str(caught.value)
    assert not is_unpacked(archive, root)
    assert not (root / "mine").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_unpack__a_full_disk_is_not_taken_for_a_damaged_archive(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", refuse)
    path = tmp_path / "a.tar"
    path.write_bytes(KINDS["a.tar"])
    with pytest.raises(OSError, match="No space left"):
        unpack(archive_of(KINDS["a.tar"], "a.tar"), path, tmp_path / "root")


def test_tar_of_tars(tmp_path):
    path = tmp_path / "train.tar"
    path.write_bytes(make_tar({f"n{number}.tar": make_tar({f"{number}.JPEG": b"x" * number}) for number in (1, 2)}))
    found = {}
    for member in tar_of_tars(path):
        with member.open() as handle:
            found[member.name] = handle.read()
    assert found == {"n1/1.JPEG": b"x", "n2/2.JPEG": b"xx"}


@pytest.mark.parametrize(
    ("content", "message"), [(b"x", "it has 1 bytes, expected"), (KINDS["a.zip"][:-1] + b"x", "its MD5 sum is")]
)
def test_obtain__another_file_was_fetched_by_hand(content, message, tmp_path):
    archive = archive_of(KINDS["a.zip"], "a.zip", md5=hashlib.md5(KINDS["a.zip"]).hexdigest())
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        obtain(archive, tmp_path)


def test_obtain__size_that_is_known_roughly_is_not_compared(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"x")
    assert obtain(archive_of(KINDS["a.zip"], "a.zip", exact=False), tmp_path) == tmp_path / "a.zip"


def test_check_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    archive = archive_of(b"x" * 100, "a.zip", url="http://example.org")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(3100))
    check_space([archive], tmp_path / "new", tmp_path / "archives")  # 100 to download and 3,000 to unpack
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(3099))
    with pytest.raises(OSError, match=rf"{tmp_path} has 0\.0 GB free, but 0\.0 GB are needed"):
        check_space([archive], tmp_path / "new", tmp_path / "archives")
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/a.zip").write_bytes(b"")  # fetched already
    check_space([archive], tmp_path / "new", tmp_path / "archives")
    check_space([], tmp_path / "new", tmp_path / "archives")
    assert os.listdir(tmp_path) == ["archives"]  # noqa: PTH208
