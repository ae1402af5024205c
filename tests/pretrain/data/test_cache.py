import fcntl
import logging
import os
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils import comm
from PIL import Image

from mocodet.pretrain.data import cache
from mocodet.pretrain.data.cache import CachedImages, cache_images
from mocodet.pretrain.data.folders import ImageFolder
from tests.processes import run_in_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(20, 30), (40, 25), (16, 16), (50, 90), (31, 77)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["ram", "disk"])
def test_cache_images__has_the_pixels_that_decoding_gives(folder, tmp_path, place, workers):
    images = ImageFolder(folder)
    cached = cache_images(images, place, str(tmp_path / "cache"), 25, workers)
    assert len(cached) == 5
    for item in (0, 1, 2):  # not larger than the side
        assert np.array_equal(cached.pixels(item), images.pixels(item))
        assert np.array_equal(np.asarray(cached[item]), np.asarray(images[item]))
    for item, size in ((3, (25, 45)), (4, (25, 62))):
        reference = images[item].resize(size[::-1], Image.BILINEAR)
        assert cached.pixels(item).shape == (*size, 3)
        assert np.abs(cached.pixels(item).astype(int) - np.asarray(reference)).max() <= 1
    again = pickle.loads(pickle.dumps(cached))  # as in a loader process that was not forked
    assert np.array_equal(again.pixels(3), cached.pixels(3))
    assert np.shares_memory(cached.pixels(3), cached.data)
    assert [path.suffix for path in tmp_path.glob("cache/*")] == ([".pixels"] if place == "disk" else [])


def test_cache_images__on_disk_is_found_again_until_an_image_changes(folder, tmp_path, caplog):
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    caplog.set_level(logging.INFO, "mocodet.pretrain")
    first = cache_images(ImageFolder(root), "disk", str(tmp_path / "cache"), 25, 0)
    assert "5 decoded images with a shorter side of at most 25 pixels take 0.00 GiB" in caplog.text
    (file,) = (tmp_path / "cache").iterdir()
    again = cache_images(ImageFolder(root), "disk", str(tmp_path / "cache"), 25, 0)
    assert f"using {file}" in caplog.text
    assert np.array_equal(first.data, again.data)
    os.utime(root / "0.png", ns=(1, 1))
    cache_images(ImageFolder(root), "disk", str(tmp_path / "cache"), 25, 0)
    cache_images(ImageFolder(root), "disk", str(tmp_path / "cache"), 24, 0)
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_cache_images__too_large_is_refused_with_the_figures(folder, tmp_path, monkeypatch, place):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 5000))
    monkeypatch.setattr(cache, "available_bytes", lambda device: 5000)
    with pytest.raises(ValueError, match=f"DATA.CACHE {place} requires 0.00 GiB of .*lower DATA.CACHE_SIDE"):
        cache_images(ImageFolder(folder), place, str(tmp_path / "cache"), 25, 0)
    assert not list((tmp_path / "cache").glob(".*"))


def test_cache_images__in_memory_needs_linux(folder, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ValueError, match=r"^DATA\.CACHE ram requires Linux.*use disk or none$"):
        cache_images(ImageFolder(folder), "ram", "", 25, 0)


def test_cache_images__removes_what_a_killed_run_left_and_nothing_else(folder, tmp_path):
    root = tmp_path / "cache"
    cache_images(ImageFolder(folder), "disk", str(root), 25, 0)
    (file,) = root.iterdir()
    file.unlink()
    left, running, elsewhere = (
        root / f".{file.name}.{host}.{number}.tmp"
        for host, number in ((socket.gethostname(), 1), (socket.gethostname(), 2), ("another", 1))
    )
    for path in (left, running, elsewhere):
        path.write_bytes(b"half")
    with running.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        cache_images(ImageFolder(folder), "disk", str(root), 25, 0)
    assert set(root.iterdir()) == {file, running, elsewhere}


def test_cache_images__when_another_process_takes_its_new_file_for_a_leftover(folder, tmp_path, monkeypatch):
    """Another process removes the file before this one locks it."""
    flock = fcntl.flock

    def too_late(*how):
        monkeypatch.undo()
        for path in tmp_path.glob(".*.tmp"):
            path.unlink()
        return flock(*how)

    monkeypatch.setattr(fcntl, "flock", too_late)
    cache_images(ImageFolder(folder), "disk", str(tmp_path), 25, 0)
    assert fcntl.flock is flock
    assert [path.suffix for path in tmp_path.iterdir()] == [".pixels"]


def test_cache_images__a_file_that_was_cut_off_is_refused(folder, tmp_path):
    cache_images(ImageFolder(folder), "disk", str(tmp_path), 25, 0)
    (file,) = tmp_path.glob("*.pixels")
    whole = file.read_bytes()
    file.chmod(0o444)  # users without permission to write may share a cache
    cache_images(ImageFolder(folder), "disk", str(tmp_path), 25, 0)
    file.chmod(0o644)
    for damaged in (whole[:-1], whole[:30], bytes(len(whole))):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{file.name} is not a complete cache of 5 images; delete it"):
            cache_images(ImageFolder(folder), "disk", str(tmp_path), 25, 0)


def test_cache_images__is_one_for_all_processes(folder, tmp_path):
    assert run_in_processes(_cache_in_process, str(folder), str(tmp_path)) == [True, True]
    assert [path.suffix for path in tmp_path.iterdir()] == [".pixels"]


def test_cache_images__of_machines_that_share_a_disk(folder, tmp_path):
    assert run_in_processes(_cache_as_two_machines, str(folder), str(tmp_path)) == [True, True]
    assert [path.suffix for path in tmp_path.iterdir()] == [".pixels"]


def _cache_as_two_machines(folder: str, output: str) -> bool:
    comm.get_local_rank, comm.get_local_size = lambda: 0, lambda: 1
    return _cache_in_process(folder, output)


def _cache_in_process(folder: str, output: str) -> bool:
    images = ImageFolder(folder)
    same = []
    for place in ("ram", "disk"):
        cached = cache_images(images, place, output, 1000, 0)
        same += [np.array_equal(cached.pixels(item), images.pixels(item)) for item in range(5)]
        assert isinstance(cached, CachedImages)
    return all(same)
