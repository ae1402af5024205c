"""Archives that `cat` or a tool has joined, padded or truncated, against GNU tar's ``--ignore-zeros``."""

import bz2
import gzip
import io
import lzma
import subprocess

import pytest

from mocodet.pretrain.data.shards import image_sizes, read_images
from mocodet.pretrain.data.tars import open_tar
from tests.pretrain.data.test_shards import tar

FIRST, SECOND = (tar({f"{name}.jpg": name.encode() * 700 for name in names}) for names in ("ab", "cd"))
PACKERS = {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("padding", [0, 512, 20480])
def test_read__joined_archives_are_one(tmp_path, packer, padding):
    pack, path = PACKERS[packer], tmp_path / "joined.tar"
    path.write_bytes(pack(FIRST) + (bytes(padding) if packer != "xz" else b"") + pack(SECOND) + bytes(padding))
    if packer == "plain":
        listed = subprocess.run(["tar", "--ignore-zeros", "-tf", path], capture_output=True, text=True, check=True)
        assert listed.stdout.split() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    for shard in (str(path), f"pipe:cat {path}"):
        assert [data for _, data in read_images(shard, allow_pipe=True)] == [
            name * 700 for name in (b"a", b"b", b"c", b"d")
        ]
        assert [data[:1] for _, data in read_images(shard, 3, allow_pipe=True)] == [b"d"]
        assert list(image_sizes(shard, allow_pipe=True)) == [700] * 4


MEMBER = 512 + 1024  # header and data
DAMAGES = {
    "rest of a file": (FIRST + b"x" * 700, r"joined\.tar: 700 bytes follow the end of the archive and are not an"),
    "less than a header": (FIRST + b"x", r"joined\.tar: 1 bytes follow the end of the archive .*; remove them"),
    "compressed behind plain": (FIRST + gzip.compress(SECOND), r"bytes follow the end of the archive and are not an"),
    "plain behind compressed": (gzip.compress(FIRST) + SECOND, r"joined\.tar is damaged.*after the end of the comp"),
    "second cut between members": (FIRST + SECOND[:MEMBER], r"joined\.tar is damaged or .* \(empty header\)"),
    "second cut in a header": (FIRST + SECOND[: MEMBER + 90], r"joined\.tar is damaged or .* \(truncated header\)"),
    "second cut in its data": (FIRST + SECOND[:900], r"joined\.tar is damaged or .* \(unexpected end of data\)"),
    "second packed and cut": (gzip.compress(FIRST) + gzip.compress(SECOND)[:-9], r"joined\.tar is damaged.* truncated"),
    "wrong checksum": (gzip.compress(FIRST)[:-8] + bytes(8), r"joined\.tar is damaged.*incorrect data check"),
    "damaged bzip2": (bz2.compress(FIRST)[:60] + bytes(99), r"joined\.tar is damaged or is not a tar archive \(compr"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGES.values(), ids=DAMAGES)
def test_read__what_follows_an_archive_and_is_none(tmp_path, content, message):
    path = tmp_path / "joined.tar"
    path.write_bytes(content)
    for shard in (str(path), f"pipe:cat {path}"):
        for read in (read_images, image_sizes):
            with pytest.raises(ValueError, match=message):
                list(read(shard, allow_pipe=True))


def test_open_tar__an_archive_of_nothing():
    assert list(open_tar(io.BytesIO(bytes(10240)))) == []
