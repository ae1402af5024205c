"""Decoded images in shared memory or in a file: each is decoded once, before training."""

import hashlib
import logging
import mmap
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import Dataset

from mocodet.common.memory import available_bytes
from mocodet.common.progress import progress

from .augment.opencv import resize
from .decoding import unreadable
from .folders import ImageFiles
from .loader import load_batches

logger = logging.getLogger("mocodet.pretrain")

SHARED_MEMORY = Path("/dev/shm")

# What of the free memory may be asked for: the rest is for the processes themselves.
SHARE_OF_MEMORY = 0.9

BATCH = 64  # images that a loader process does at a time


class CachedImages(Dataset[Image.Image]):
    """Images of a file of decoded pixels, which processes share.

    The file begins with height and width of each image (N x 2, int64); the pixels of one image after the other follow.

    Args:
        path: of the file.
        count: N.
    """

    def __init__(self, path: str | os.PathLike, count: int) -> None:
        self._file = Path(path).open("r+b")  # noqa: SIM115 (kept open: see __reduce__)
        self.data = np.frombuffer(mmap.mmap(self._file.fileno(), 0), dtype=np.uint8)
        self.sizes = self.data[: _header(count)].view(np.int64).reshape(count, 2)
        self.ends = _header(count) + np.cumsum(3 * self.sizes.prod(axis=1))

    def __reduce__(self) -> tuple[type["CachedImages"], tuple[str, int]]:
        # A process that was not forked opens the file by this descriptor: in memory it has no name any more.
        return CachedImages, (f"/proc/{os.getpid()}/fd/{self._file.fileno()}", len(self))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, item: int) -> Image.Image:
        return Image.fromarray(self.pixels(item))

    def pixels(self, item: int) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8: a part of the cache itself."""
        height, width = self.sizes[item].tolist()
        end = int(self.ends[item])
        return self.data[end - 3 * height * width : end].reshape(height, width, 3)


def cache_images(images: ImageFiles, place: str, folder: str, side: int, num_workers: int) -> CachedImages:
    """Decode all images once, into shared memory or a file.

    All processes of a run must call it together; those of a machine share one cache and decode a part each. A file that
    an earlier run left for the same images (by path, size and time of change) is used again.

    Args:
        images: which.
        place: ``"ram"`` or ``"disk"``.
        folder: for ``"disk"``: where the file goes.
        side: images whose shorter side is longer, in pixels, are shrunk to it.
        num_workers: loader processes of each process.

    Raises:
        ValueError: an image cannot be read, or there is not enough room.
    """
    final = Path(folder, f"{_identify(images, side)}.pixels") if place == "disk" else None
    if all(comm.all_gather(final is not None and final.is_file())):
        assert final is not None
        logger.info(f"DATA.CACHE {place}: using {final}")
        return CachedImages(final, len(images))
    sizes = shrunken_sizes(images, side, num_workers)
    total = _header(len(images)) + int(3 * sizes.prod(axis=1).sum())
    logger.info(
        f"DATA.CACHE {place}: {len(images)} decoded images, the shorter side at most {side} pixels, take"
        f" {total / 2**30:.2f} GiB"
    )
    # A name that no other run has, and that all processes of this one know.
    name = f".mocodet-{comm.shared_random_seed()}.tmp"
    path = (final.parent if final else SHARED_MEMORY) / name
    try:
        if comm.get_local_rank() == 0:
            check_room(place, path.parent, total)
            _reserve(path, sizes, total)
        comm.synchronize()
        cached = CachedImages(path, len(images))
        comm.synchronize()
        if not final and comm.get_local_rank() == 0:
            path.unlink()  # the memory is freed when the last process that has it open ends, however it ends
        _fill(cached, images, num_workers)
        comm.synchronize()
        if final and comm.get_local_rank() == 0:
            os.fsync(cached._file.fileno())
            path.replace(final)
    finally:
        if comm.get_local_rank() == 0:
            path.unlink(missing_ok=True)
    return cached


def check_room(place: str, folder: Path, total: int) -> None:
    """Make sure that so many bytes can be had.

    Raises:
        ValueError: they cannot; the message says how many can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if place == "ram":
        free = min(free, int(SHARE_OF_MEMORY * available_bytes(torch.device("cpu"))))
    if total > free:
        raise ValueError(
            f"DATA.CACHE {place} needs {total / 2**30:.2f} GiB in {folder}, where {free / 2**30:.2f} GiB can be had;"
            " lower DATA.CACHE_SIDE, or set DATA.CACHE " + ("disk or none" if place == "ram" else "none")
        )


def shrunken_sizes(images: ImageFiles, side: int, num_workers: int) -> np.ndarray:
    """Read the sizes of all images from the heads of their files, each process a part of them.

    Returns:
        N x 2, int64: height and width of each, after its shorter side was shrunk to ``side``.

    Raises:
        ValueError: an image cannot be read; the message names it.
    """
    rank, world = comm.get_rank(), comm.get_world_size()
    mine = _run_over(_Sizes(images, side), range(rank, len(images), world), num_workers, "size of an image")
    sizes = np.empty((len(images), 2), dtype=np.int64)
    for other, found in enumerate(comm.all_gather(mine)):
        sizes[other::world] = found
    return sizes


class _Sizes(Dataset[tuple[int, int]]):
    """Height and width of an image in the cache."""

    def __init__(self, images: ImageFiles, side: int) -> None:
        self.images, self.side = images, side

    def __getitem__(self, item: int) -> tuple[int, int]:
        path = self.images.paths[item]
        try:
            with Image.open(path) as image:
                width, height = image.size
        except Exception as error:  # damaged bytes make Pillow raise almost anything
            raise ValueError(unreadable(path, error)) from error
        scale = min(1.0, self.side / min(height, width))
        return round(height * scale), round(width * scale)


class _Filling(Dataset[int]):
    """Puts an image into the cache when it is asked for."""

    def __init__(self, cached: CachedImages, images: ImageFiles) -> None:
        self.cached, self.images = cached, images

    def __getitem__(self, item: int) -> int:
        pixels, room = self.images.pixels(item), self.cached.pixels(item)
        room[:] = pixels if pixels.shape == room.shape else resize(pixels, *room.shape[:2])
        return item


def _fill(cached: CachedImages, images: ImageFiles, num_workers: int) -> None:
    mine = range(comm.get_local_rank(), len(images), comm.get_local_size())
    _run_over(_Filling(cached, images), mine, num_workers, "cached image")


def _run_over(dataset: Dataset, items: range, num_workers: int, what: str) -> np.ndarray:
    """Ask a data set for items, in loader processes; return what it gives, an array with a row for each."""
    batches = load_batches(dataset, num_workers, sampler=items, batch_size=BATCH, collate_fn=np.array)
    total = -(-len(items) // BATCH)
    rows = list(progress(batches, f"{what} / {BATCH}", total) if comm.is_main_process() else batches)
    return np.concatenate(rows) if rows else np.empty((0, 2), dtype=np.int64)


def _header(count: int) -> int:
    return 2 * np.dtype(np.int64).itemsize * count


def _reserve(path: Path, sizes: np.ndarray, total: int) -> None:
    """Make a file of ``total`` bytes that begins with ``sizes``, so that later nothing can run out of room."""
    with path.open("xb") as handle:
        os.posix_fallocate(handle.fileno(), 0, total)
        handle.write(sizes.tobytes())


def _identify(images: ImageFiles, side: int) -> str:
    """Return a hash (hexadecimal, 128 bits) of the files in their order, as they are now, and of ``side``."""
    found = hashlib.sha256(f"1 {side}".encode())  # 1: version of the file's layout
    for path in images.paths:
        status = Path(path).stat()
        found.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:32]
