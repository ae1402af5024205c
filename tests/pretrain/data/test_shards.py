import gc
import gzip
import io
import json
import logging
import os
import tarfile
import threading
import time
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
import torch
from detectron2.utils import comm
from fsspec.spec import AbstractFileSystem
from PIL import Image
from torch.utils.data import DataLoader

from mocodet.pretrain.data import retrying
from mocodet.pretrain.data import shards as shards_module
from mocodet.pretrain.data.augment.pillow import PillowViews, build_view
from mocodet.pretrain.data.augment.recipes import RECIPES
from mocodet.pretrain.data.sampler import EpochSampler
from mocodet.pretrain.data.shards import ShardImages, ShardIndex, ShardSampler, image_sizes, read_images
from mocodet.pretrain.data.views import Views
from tests.processes import run_in_processes


def tar(members: dict[str, bytes]) -> bytes:
    """Make an archive without webdataset."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return written.getvalue()


def write_shards(folder: Path, sizes: list[int], **named: str) -> str:
    """Write shards whose images are their own numbers, 0 to sum(sizes) - 1, and an index; return the index."""
    folder.mkdir(parents=True, exist_ok=True)
    first, entries = 0, []
    for number, size in enumerate(sizes):
        members = {}
        for image in range(first, first + size):
            members[f"{image:05d}.jpg"] = str(image).encode()
            members[f"{image:05d}.json"] = b"{}"
        name = f"part-{number}.tar"
        (folder / name).write_bytes(tar(members))
        named_as = named.get("name", "{name}").format(folder=folder, name=name)
        entries.append({"name": named_as, "images": size, "bytes": sum(map(len, members.values()))})
        first += size
    index = folder / "index.json"
    index.write_text(json.dumps({"version": 1, "shards": entries}))
    return str(index)


def take(sampler, count, start=0):
    """Return ``count`` batches, each a list of (number of the image, draw)."""
    sampler.start_iteration = start
    return [[(int(data), draw) for (_, data), draw in batch] for batch in islice(iter(sampler), count)]


def images(batches):
    return [image for batch in batches for image, _ in batch]


def as_rank(monkeypatch, rank, world):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world)


@pytest.fixture
def no_delay(monkeypatch):
    monkeypatch.setattr(retrying, "RETRY_DELAYS", (0.0, 0.0))


UNEVEN = [7, 1, 19, 2, 3, 28]  # 60


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("buffer", [1, 7, 1000])
def test_shard_sampler__every_image_once_an_epoch_over_all_processes(tmp_path, monkeypatch, world, buffer):
    index = write_shards(tmp_path, UNEVEN)
    seen = {epoch: [] for epoch in range(3)}
    draws = []
    for rank in range(world):
        as_rank(monkeypatch, rank, world)
        sampler = ShardSampler(index, batch_size=12, seed=3, shuffle_buffer=buffer)
        assert sampler.iterations_per_epoch == 5
        batches = take(sampler, 15)
        assert {len(batch) for batch in batches} == {12 // world}
        for iteration, batch in enumerate(batches):
            seen[iteration // 5] += [image for image, _ in batch]
            draws += [draw for _, draw in batch]
            assert all(draw // 12 == iteration for _, draw in batch), "draws are places in the global batches"
    for order in seen.values():
        assert sorted(order) == list(range(60))
    assert seen[0] != seen[1] != seen[2]
    assert sorted(draws) == list(range(15 * 12))


def _rank_reads(index):
    return take(ShardSampler(index, batch_size=12, seed=3, shuffle_buffer=7), 10)


def test_shard_sampler__two_real_processes(tmp_path):
    parts = run_in_processes(_rank_reads, write_shards(tmp_path, UNEVEN))
    for epoch in range(2):
        assert sorted(image for part in parts for image in images(part[5 * epoch : 5 * epoch + 5])) == list(range(60))


def test_shard_sampler__left_over_images_come_in_later_epochs(tmp_path):
    sampler = ShardSampler(write_shards(tmp_path, [23]), batch_size=4, seed=1, shuffle_buffer=5)
    assert sampler.iterations_per_epoch == 5
    stream = take(sampler, 100)
    epochs = [images(stream[5 * epoch : 5 * epoch + 5]) for epoch in range(20)]
    assert all(len(set(order)) == 20 for order in epochs)
    assert {image for order in epochs for image in order} == set(range(23)), "including the end of the only shard"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("buffer", [1, 4, 7, 1000])
def test_shard_sampler__resumes_at_any_iteration_and_begins_before_the_first(tmp_path, monkeypatch, rank, buffer):
    as_rank(monkeypatch, rank, 2)
    index = write_shards(tmp_path, UNEVEN)

    def make():
        return ShardSampler(index, batch_size=8, seed=3, shuffle_buffer=buffer)

    stream = take(make(), 30, -10)
    for start in range(-10, 16):
        assert take(make(), 4, start) == stream[start + 10 : start + 14]
    assert len({draw for batch in stream for _, draw in batch}) == 30 * 4


def test_shard_sampler__order_depends_on_the_seed(tmp_path):
    index = write_shards(tmp_path, UNEVEN)
    orders = [take(ShardSampler(index, 12, seed, 20), 5) for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_shard_sampler__windows_are_shuffled(tmp_path):
    index = write_shards(tmp_path, [250] * 4)
    kept = images(take(ShardSampler(index, 20, seed=0, shuffle_buffer=1), 50))
    mixed = images(take(ShardSampler(index, 20, seed=0, shuffle_buffer=200), 50))
    assert np.mean(np.diff(kept) == 1) > 0.99, "with a buffer of one image the shards are read in order"
    assert np.mean(np.diff(mixed) == 1) < 0.02
    for window in range(5):
        part = slice(200 * window, 200 * (window + 1))
        assert sorted(mixed[part]) == sorted(kept[part]), "images stay in their window"
        # Mean distance from the old place of a random permutation of n: n / 3.
        places = {image: place for place, image in enumerate(kept[part])}
        moved = np.mean([abs(places[image] - place) for place, image in enumerate(mixed[part])])
        assert 50 < moved < 84
    orders = [[kept[200 * w : 200 * w + 200].index(image) for image in mixed[200 * w : 200 * w + 200]] for w in (0, 1)]
    assert orders[0] != orders[1], "each window has its own permutation"


def test_shard_sampler__order_of_shards_and_beginning_differ_between_epochs(tmp_path):
    sampler = ShardSampler(write_shards(tmp_path, [10] * 8), batch_size=10, seed=0, shuffle_buffer=1)
    stream = images(take(sampler, 8 * 12))
    epochs = [stream[80 * epoch : 80 * epoch + 80] for epoch in range(12)]
    successions = {tuple(dict.fromkeys(image // 10 for image in order)) for order in epochs}
    assert len(successions) == 12
    assert len({order[0] % 10 for order in epochs}) > 3


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels(number)).save(written, format="PNG")
    return written.getvalue()


def write_pngs(folder: Path, count: int) -> str:
    (folder / "a.tar").write_bytes(tar({f"{number}.png": png(number) for number in range(count)}))
    entry = {"name": "a.tar", "images": count, "bytes": 800 * count}
    (folder / "index.json").write_text(json.dumps({"version": 1, "shards": [entry]}))
    return str(folder / "index.json")


@pytest.mark.parametrize("workers", [1, 2])
def test_stream__does_not_depend_on_the_number_of_workers(tmp_path, workers):
    index = write_pngs(tmp_path, 24)

    def batches(workers, start, count):
        sampler = ShardSampler(index, batch_size=6, seed=2, shuffle_buffer=10)
        sampler.start_iteration = start
        dataset = Views(ShardImages(), PillowViews(build_view(RECIPES["moco_v2"], 8)), 2)
        return list(islice(DataLoader(dataset, batch_sampler=sampler, num_workers=workers), count))

    expected = batches(0, 0, 9)
    found = batches(workers, 3, 6)
    for one, other in zip(expected[3:], found, strict=True):
        assert one.keys() == other.keys() == {"query", "key"}
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(expected[0]["query"], expected[4]["query"])


def test_shard_images__decodes_what_the_sampler_yields(tmp_path):
    sampler = ShardSampler(write_pngs(tmp_path, 8), batch_size=8, seed=0, shuffle_buffer=8)
    batch = next(iter(sampler))
    for (name, data), _ in batch:
        number = int(name.rpartition(": ")[2].removesuffix(".png"))
        assert np.array_equal(ShardImages()[name, data], pixels(number))


def test_stream__image_that_cannot_be_decoded_is_named_with_its_shard(tmp_path):
    sampler = ShardSampler(write_shards(tmp_path, [4]), batch_size=4, seed=0, shuffle_buffer=4)
    loader = DataLoader(Views(ShardImages(), PillowViews(build_view(RECIPES["moco_v1"], 8)), 0), batch_sampler=sampler)
    with pytest.raises(
        ValueError, match=r"part-0\.tar: 0000\d\.jpg cannot be read as an image \(unrecognised format\)"
    ):
        next(iter(loader))


def shards_somewhere(tmp_path, kind):
    """Write shards and return an index that names them in one of the ways."""
    if kind == "memory":
        write_shards(tmp_path, UNEVEN)
        memory = fsspec.filesystem("memory")
        for path in tmp_path.iterdir():
            memory.pipe_file(f"/{tmp_path.name}/{path.name}", path.read_bytes())
        return f"memory://{tmp_path.name}/index.json"
    name = {"pipe": "pipe:cat '{folder}/{name}'", "file": "file://{folder}/{name}", "absolute": "{folder}/{name}"}[kind]
    return write_shards(tmp_path, UNEVEN, name=name)


@pytest.mark.parametrize("kind", ["pipe", "file", "memory", "absolute"])
def test_shard_sampler__the_same_stream_from_wherever_the_shards_are(tmp_path, kind):
    expected = take(ShardSampler(write_shards(tmp_path / "local", UNEVEN), 12, 0, 9), 7)
    assert take(ShardSampler(shards_somewhere(tmp_path / "there", kind), 12, 0, 9, allow_pipe=True), 7) == expected


def test_shard_index__through_a_pipe(tmp_path):
    index = write_shards(tmp_path, [3, 2], name="{folder}/{name}")
    assert ShardIndex(f"pipe:cat {index}", allow_pipe=True).images.tolist() == [3, 2]
    index = write_shards(tmp_path, [3, 2])
    with pytest.raises(ValueError, match=r"has no folder that shard 'part-0\.tar' could be relative to"):
        ShardIndex(f"pipe:cat {index}", allow_pipe=True)
    with pytest.raises(ValueError, match=r"pipe:exit 3 cannot be read"):
        ShardIndex("pipe:exit 3", allow_pipe=True)


def test_shard_index__no_command_runs_without_consent(tmp_path):
    canary = tmp_path / "canary"
    index = write_shards(tmp_path, [3, 2], name=f"pipe:touch {canary}; cat '{{folder}}/{{name}}'")
    with pytest.raises(
        ValueError, match=r"index\.json lists 2 shards as commands, such as .pipe:touch .* --allow-pipe"
    ):
        ShardIndex(index)
    with pytest.raises(ValueError, match=r"^pipe:touch \S+ is a command that was not run, .*; add --allow-pipe"):
        ShardIndex(f"pipe:touch {canary}")
    with pytest.raises(ValueError, match=r"^pipe:touch \S+ is a command that was not run, .*; add --allow-pipe"):
        next(read_images(f"pipe:touch {canary}"))
    assert not canary.exists()
    assert take(ShardSampler(index, 5, 0, 5, allow_pipe=True), 1)
    assert canary.exists(), "this test could not fail otherwise"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "index.json is not valid JSON"),
        ("[]", "is not an index of shards with version 1"),
        ('{"version": 2, "shards": []}', "is not an index of shards with version 1"),
        ('{"version": 1, "shards": []}', "lists no shards"),
        (
            '{"version": 1, "shards": [{"name": "a.tar", "images": 0, "bytes": 3}]}',
            "shard 0 must have a name, images >",
        ),
        ('{"version": 1, "shards": [{"name": "a.tar", "images": 3}]}', "shard 0 must have a name"),
        ('{"version": 1, "shards": ["a.tar"]}', "shard 0 must have a name"),
        ('{"version": 1, "shards": [{"name": "a", "images": 9223372036854775808, "bytes": 3}]}', "shard 0 must have a"),
        ('{"version": 1, "shards": [{"name": "\\ud800", "images": 3, "bytes": 3}]}', "shard 0 must have a name"),
        ("[" * 5000, "index.json is not valid JSON"),
    ],
)
def test_shard_index__faults_are_named(tmp_path, content, message):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        ShardIndex(str(tmp_path / "index.json"))


def test_shard_index__not_an_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder; DATA.SHARDS must be an index written by mocodet shards"):
        ShardIndex(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json does not exist; DATA.SHARDS must be an index"):
        ShardIndex(str(tmp_path / "nowhere.json"))
    with pytest.raises(FileNotFoundError, match=r"memory://nowhere/index\.json does not exist"):
        ShardIndex("memory://nowhere/index.json")
    with pytest.raises(FileNotFoundError, match=r"part-\{0\.\.9\}\.tar does not exist; DATA.SHARDS must be an index"):
        ShardIndex("part-{0..9}.tar")
    write_shards(tmp_path, [3])
    for location in (f"{tmp_path}/part-0.tar", f"pipe:cat {tmp_path}/part-0.tar"):
        with pytest.raises(
            ValueError, match=r"part-0\.tar is not a text file and may be a shard; DATA.SHARDS must be an index"
        ):
            ShardIndex(location, allow_pipe=True)
    with pytest.raises(ValueError, match=r"nosuch://x/index\.json cannot be opened: Protocol not known"):
        ShardIndex("nosuch://x/index.json")


def test_shard_index__whatever_it_is_called(tmp_path):
    content = Path(write_shards(tmp_path, [3, 2], name="{folder}/{name}")).read_bytes()
    odd = tmp_path / "{0..9}.tar"
    odd.write_bytes(content)
    assert len(ShardIndex(str(odd))) == len(ShardIndex(f"pipe:cat '{odd}'", allow_pipe=True)) == 2


def test_shard_index__shards_beside_a_url_with_a_query(tmp_path):
    content = Path(write_shards(tmp_path, [3])).read_bytes()
    # A file system that, unlike an https server, treats the query as a part of the name.
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/index.json?key=a/b", content)
    assert ShardIndex(f"memory://{tmp_path.name}/index.json?key=a/b").path(0) == f"memory://{tmp_path.name}/part-0.tar"
    odd = tmp_path / "what?"
    odd.mkdir()
    (odd / "index.json").write_bytes(content)
    assert ShardIndex(f"{odd}/index.json").path(0) == f"{odd}/part-0.tar"


def test_shard_sampler__too_small_or_uneven(tmp_path, monkeypatch):
    index = write_shards(tmp_path, [3])
    with pytest.raises(ValueError, match="3 images, fewer than one batch"):
        ShardSampler(index, 4, 0, 10)
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(ValueError, match="is not divisible by the number of processes, 2"):
        ShardSampler(index, 3, 0, 10)


def drain(index):
    sampler = ShardSampler(index, 2, 0, 5, allow_pipe=True)
    for _ in islice(iter(sampler), 2 * sampler.iterations_per_epoch):
        pass


@pytest.mark.parametrize("name", ["{name}", "pipe:cat '{folder}/{name}'"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_read__shard_cut_off_in_a_member(tmp_path, no_delay, name, keep):
    index = write_shards(tmp_path, [20, 20], name=name)
    members = {f"{number}.jpg": bytes(5000) for number in range(20)}
    whole = tar(members)
    (tmp_path / "part-1.tar").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(
        ValueError, match=r"part-1\.tar'? is damaged or is not a tar archive \(unexpected end of data\)"
    ):
        drain(index)


# Header and data of an image and of its JSON: four blocks. tarfile alone mistakes such a cut for the end.
@pytest.mark.parametrize("end", [10 * 4 * 512, 10 * 4 * 512 + 100], ids=["between members", "in a header"])
def test_read__shard_cut_off_outside_of_data(tmp_path, end):
    index = write_shards(tmp_path, [20, 20])
    path = tmp_path / "part-1.tar"
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(
        ValueError, match=r"part-1\.tar is damaged or is not a tar archive \((empty|truncated) header\)"
    ):
        drain(index)


def test_read__garbled_header(tmp_path):
    index = write_shards(tmp_path, [20, 20])
    path = tmp_path / "part-1.tar"
    whole = bytearray(path.read_bytes())
    whole[10 * 4 * 512 + 150] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"part-1\.tar is damaged or is not a tar archive \(bad checksum\)"):
        drain(index)


def test_read__fewer_images_than_the_index_says(tmp_path):
    index = write_shards(tmp_path, [20, 20])
    (tmp_path / "part-1.tar").write_bytes(tar({f"{number}.jpg": b"1" for number in range(19)}))
    with pytest.raises(ValueError, match=r"part-1\.tar contains fewer images than the 20 listed in \S*index\.json"):
        drain(index)


def test_read__no_archive(tmp_path):
    index = write_shards(tmp_path, [20, 20])
    (tmp_path / "part-0.tar").write_bytes(b"no archive at all " * 1000)
    with pytest.raises(ValueError, match=r"part-0\.tar is damaged or is not a tar archive"):
        drain(index)
    (tmp_path / "part-0.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"part-0\.tar is damaged or is not a tar archive \(empty header\)"):
        drain(index)


def test_read__more_images_than_the_index_says(tmp_path):
    index = write_shards(tmp_path, [20, 20])
    (tmp_path / "part-1.tar").write_bytes(tar({f"{number}.jpg": b"1" for number in range(21)}))
    with pytest.raises(ValueError, match=r"part-1\.tar contains more images than the 20 listed in \S*index\.json"):
        drain(index)


def test_read__missing_shard(tmp_path):
    index = write_shards(tmp_path, [20, 20])
    (tmp_path / "part-1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-1\.tar does not exist"):
        drain(index)


# The first ends before a byte was read, the second in the middle, the third only after the whole archive.
@pytest.mark.parametrize("command", ["exit 7", "head -c 5000 '{}'; exit 7", "cat '{}'; sleep 0.2; exit 7"])
def test_read__command_that_fails_is_not_the_end_of_a_shard(tmp_path, no_delay, command):
    write_shards(tmp_path, [20])
    shard = "pipe:" + command.format(tmp_path / "part-0.tar")
    with pytest.raises(ValueError, match=r"^pipe:.*exit 7 cannot be read \(its command exited with status 7\)"):
        list(read_images(shard, allow_pipe=True))


def test_read__compressed(tmp_path):
    write_shards(tmp_path, [20])
    whole = gzip.compress((tmp_path / "part-0.tar").read_bytes())
    (tmp_path / "part-0.tar.gz").write_bytes(whole)
    shard = str(tmp_path / "part-0.tar.gz")
    assert [int(data) for _, data in read_images(shard)] == list(range(20))
    (tmp_path / "part-0.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"part-0\.tar\.gz is damaged"):
        list(read_images(shard))


def test_read__other_members_and_hidden_files_are_no_images(tmp_path):
    names = {"a.JPG": b"1", "a.txt": b"", "b.c.png": b"2", "d/._e.jpg": b"x", ".d/e/f.jpg": b"x", "d/.e/f.jpg": b"x"}
    names |= {"./d/../e.webp": b"three", "f.cls": b"4", ".g.jpg": b"x"}
    path = tmp_path / "a.tar"
    path.write_bytes(tar(names))
    assert [data for _, data in read_images(str(path))] == [b"1", b"2", b"three"]
    assert [name.rpartition(": ")[2] for name, _ in read_images(str(path), 1)] == ["b.c.png", "./d/../e.webp"]
    for shard in (str(path), f"pipe:cat {path}", f"file://{path}"):
        assert list(image_sizes(shard, allow_pipe=True)) == [1, 1, 5]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_read__links_are_refused(tmp_path, kind):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("notes.txt", ".hidden.jpg", "d/b.jpg"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
    for shard in (str(path), f"pipe:cat {path}"):
        for read in (read_images, image_sizes):
            with pytest.raises(
                ValueError, match=r"d/b\.jpg is a link to a\.jpg instead of a file; .* tar --dereference --hard"
            ):
                list(read(shard, allow_pipe=True))


class Counted(io.FileIO):
    """A file that counts the bytes that are read from it."""

    count = 0

    def readinto(self, buffer):
        found = super().readinto(buffer)
        self.count += found
        return found


def test_image_sizes__only_headers_of_a_local_archive_are_read(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    path.write_bytes(tar({f"{number}.jpg": bytes(200_000 + number) for number in range(20)}))
    raw = Counted(path)
    monkeypatch.setattr(shards_module, "open_location", lambda *_: io.BufferedReader(raw))
    assert list(image_sizes(str(path))) == [200_000 + number for number in range(20)]
    assert raw.count < 20 * 200_000 / 4


class ClientError(Exception):
    """Derived from Exception alone, like the errors of aiohttp, so that its type says nothing."""


class Breaking(io.BytesIO):
    """A file of which at most ``whole`` bytes can be read."""

    def __init__(self, data, whole):
        super().__init__(data)
        self.whole = whole

    def read(self, size=-1):
        if self.tell() + size > self.whole:
            raise ClientError
        return super().read(size)


class Flaky(AbstractFileSystem):
    """Serves ``data``, each time up to the next of ``lengths``; with 0 it cannot be opened."""

    protocol = "flaky"
    cachable = False
    data: ClassVar[bytes]
    lengths: ClassVar[list[int]]

    def _open(self, path, mode="rb", **_):
        length = Flaky.lengths.pop(0)
        if length == 0:
            raise ClientError("503\nService Unavailable")
        return Breaking(Flaky.data, length)


@pytest.fixture
def flaky(monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    images = {f"{number}.jpg": b"%d" % number for number in range(200)}
    monkeypatch.setattr(Flaky, "data", tar(images), raising=False)
    monkeypatch.setattr(Flaky, "lengths", [], raising=False)
    return Flaky


def test_read__whatever_a_file_system_raises_is_tried_again(flaky, monkeypatch):
    whole = len(flaky.data)
    monkeypatch.setattr(retrying, "RETRY_DELAYS", (0.0,))
    # More faults than delays, but each is followed by images.
    monkeypatch.setattr(flaky, "lengths", [0, whole // 4, whole // 2, 2 * whole])
    assert [int(data) for _, data in read_images("flaky://a.tar")] == list(range(200))
    assert flaky.lengths == []


def test_read__whatever_a_file_system_raises_is_told_in_the_end(flaky, monkeypatch, no_delay):
    monkeypatch.setattr(flaky, "lengths", [0] * 10)
    with pytest.raises(ValueError, match=r"^flaky://a\.tar cannot be read \(503 Service Unavailable\)$"):
        list(read_images("flaky://a.tar"))
    assert len(flaky.lengths) == 10 - 3, "once, and after each of two delays"
    monkeypatch.setattr(flaky, "lengths", [len(flaky.data) // 2] * 10)
    with pytest.raises(ValueError, match=r"^flaky://a\.tar cannot be read \(ClientError\)$"):
        list(read_images("flaky://a.tar"))
    assert len(flaky.lengths) == 10 - 3, "at the place where a delay was followed by no image"
    monkeypatch.setattr(flaky, "lengths", [100])
    with pytest.raises(ValueError, match=r"^flaky://index\.json cannot be read \(ClientError\); DATA.SHARDS must be"):
        ShardIndex("flaky://index.json")


def test_read__a_fault_that_passes_is_survived_without_repeats(tmp_path, no_delay, caplog):
    write_shards(tmp_path, [200])
    flag = tmp_path / "tried"
    path = tmp_path / "part-0.tar"
    shard = f"pipe:if test -e {flag}; then cat {path}; else touch {flag}; head -c 100000 {path}; sleep 0.1; exit 5; fi"
    with caplog.at_level("WARNING", "mocodet.pretrain"):
        assert [int(data) for _, data in read_images(shard, allow_pipe=True)] == list(range(200))
    (record,) = caplog.records
    assert "its command exited with status 5; retrying from image 4" in record.message


def test_read__a_command_that_never_ends_is_left(tmp_path):
    write_shards(tmp_path, [20])
    found = read_images(f"pipe:cat {tmp_path}/part-0.tar; exec sleep 100", allow_pipe=True)
    next(found)
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 5


def test_read__what_a_command_started_ends_with_it(tmp_path):
    write_shards(tmp_path, [20])
    os.mkfifo(tmp_path / "held")
    # The fifo stays open as long as one of the processes is alive.
    found = read_images(
        f"pipe:exec 3> {tmp_path}/held; cat {tmp_path}/part-0.tar; (sleep 100; true) | cat", allow_pipe=True
    )
    with os.fdopen(os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as fifo:
        next(found)
        assert fifo.read(1) is None, "open, but nothing was written"
        found.close()
        deadline = time.monotonic() + 5
        while fifo.read(1) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_read__a_command_that_outlives_its_output(tmp_path, monkeypatch, no_delay):
    write_shards(tmp_path, [20])
    monkeypatch.setattr(shards_module, "COMMAND_ENDS_WITHIN", 0.1)
    with pytest.raises(ValueError, match=r"^pipe:.* cannot be read \(.* timed out after 0\.1 seconds\)$"):
        list(read_images(f"pipe:cat {tmp_path}/part-0.tar; exec >&-; sleep 100", allow_pipe=True))


def test_shard_sampler__what_ends_the_reader_ends_the_run(tmp_path, monkeypatch):
    def leave(shard, first=0, **_):
        yield f"{shard}: 0.jpg", b"0"
        raise SystemExit(3)

    monkeypatch.setattr(shards_module, "read_images", leave)
    stream = iter(ShardSampler(write_shards(tmp_path, [20]), batch_size=4, seed=0, shuffle_buffer=4))
    with pytest.raises(SystemExit):
        next(stream)


def test_shard_sampler__says_what_it_waits_for(tmp_path, monkeypatch, caplog):
    index = write_shards(tmp_path, [20])
    arrived = threading.Event()

    def wait(shard, first=0, **_):
        assert arrived.wait(30)
        for _ in range(20):
            yield f"{shard}: 0.jpg", b"0"

    class Told(logging.Handler):
        def emit(self, record):
            if "after 0.1 s" in record.getMessage():
                arrived.set()

    monkeypatch.setattr(shards_module, "read_images", wait)
    monkeypatch.setattr(shards_module, "WAITING_PERIOD", 0.05)
    told = Told()
    shards_module.logger.addHandler(told)
    try:
        with caplog.at_level("WARNING", "mocodet.pretrain"):
            next(iter(ShardSampler(index, batch_size=4, seed=0, shuffle_buffer=4)))
    finally:
        shards_module.logger.removeHandler(told)
    assert f"still waiting for {tmp_path}/part-0.tar after 0.05 s" in caplog.messages
    assert f"still waiting for {tmp_path}/part-0.tar after 0.1 s" in caplog.messages


def test_read_ahead__without_its_thread():
    def items():
        yield "a.jpg", b"1"
        raise ValueError("damaged")

    ahead = shards_module._ReadAhead(items(), 5, lambda: "part-0.tar")
    assert ahead.get() == ("a.jpg", b"1")
    with pytest.raises(ValueError, match="damaged"):
        ahead.get()
    with pytest.raises(RuntimeError, match=r"the thread that reads part-0\.tar is no longer running"):
        [ahead.get() for _ in range(2)]  # it may take a moment to end


def test_shard_sampler__the_reader_stops_with_the_stream_and_does_not_run_ahead_of_its_buffer(tmp_path, monkeypatch):
    read = []
    original = shards_module.read_images

    def counted(shard, first=0, **_):
        for image in original(shard, first):
            read.append(image)
            yield image

    monkeypatch.setattr(shards_module, "read_images", counted)
    stream = iter(ShardSampler(write_shards(tmp_path, [50] * 8), batch_size=10, seed=0, shuffle_buffer=60))
    for taken in range(1, 20):
        next(stream)
        time.sleep(0.01)
        assert len(read) <= 60 + 10 * taken + 1
    stream.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "read shards" and thread.is_alive() for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.01)


def test_shard_sampler__buffer_is_bounded_in_bytes(tmp_path, monkeypatch, caplog):
    index = write_shards(tmp_path, [100, 100])
    mean = ShardIndex(index).bytes / 200
    monkeypatch.setattr(shards_module, "MAX_BUFFER_BYTES", 30 * mean)
    assert ShardSampler(index, 10, 0, 30).window == 30
    assert not caplog.records
    with caplog.at_level("WARNING", "mocodet.pretrain"):
        assert ShardSampler(index, 10, 0, 31).window == 30
    assert "DATA.SHUFFLE_BUFFER 31: images of 0 kB would take" in caplog.text


def test_load_state_dict__refuses_another_stream(tmp_path, monkeypatch):
    index = write_shards(tmp_path / "one", UNEVEN)
    state = ShardSampler(index, 12, 0, 9).state_dict()
    ShardSampler(index, 12, 0, 9).load_state_dict(state)
    ShardSampler(write_shards(tmp_path / "moved", UNEVEN), 12, 0, 9).load_state_dict(state)
    others = {
        "shards": ShardSampler(write_shards(tmp_path / "two", UNEVEN[::-1]), 12, 0, 9),
        "batch_size": ShardSampler(index, 6, 0, 9),
        "seed": ShardSampler(index, 12, 1, 9),
        "shuffle_buffer": ShardSampler(index, 12, 0, 10),
    }
    for key, other in others.items():
        with pytest.raises(
            ValueError, match=rf"was written with {{'{key}': [^,]*}}, but this run has {{'{key}': [^,]*}}"
        ):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="resume with the same shards"):
        ShardSampler(index, 12, 0, 9).load_state_dict(EpochSampler(60, 12, 0).state_dict())
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(ValueError, match=r"written with {'processes': 1}, but this run has {'processes': 2}"):
        ShardSampler(index, 12, 0, 9).load_state_dict(state)


def test_shard_sampler__a_hundred_million_images_fit_in_memory(tmp_path):
    write_shards(tmp_path, [1000])
    entry = {"name": "part-0.tar", "images": 1000, "bytes": 10**8}
    index = tmp_path / "large.json"
    index.write_text(json.dumps({"version": 1, "shards": [entry] * 100_000}))
    tracemalloc.start()
    try:
        sampler = ShardSampler(str(index), batch_size=256, seed=0, shuffle_buffer=300)
        assert sampler.dataset_size == 10**8
        assert sampler.iterations_per_epoch == 390_625
        last = sampler.iterations_per_epoch - 1
        found = [take(sampler, 3, start) for start in (0, last - 1)]  # the second crosses into the next epoch
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(batch) for batches in found for batch in batches] == [256] * 6
    assert found[1][2][0][1] == 10**8, "draws continue in the next epoch"
    # One name for each image would take gigabytes.
    assert peak < 100e6, "parsing, reading and shuffling"
    assert kept < 20e6, "index and order"
