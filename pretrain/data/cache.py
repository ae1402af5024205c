"""Caches images in shared memory or in a file. Each image is decoded once, before training."""

import hashlib
import io
import logging
import mmap
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import Dataset

from mocodet.common.files import remove_leftover
from mocodet.common.formats.image import image_size
from mocodet.common.locks import lock_file
from mocodet.common.memory import available_bytes
from mocodet.common.progress import progress

from .augment.opencv import resize
from .decoding import UnreadableImageError
from .folders import ImageFiles
from .loader import load_batches

logger = logging.getLogger("mocodet.pretrain")

# Fraction of the free memory that a cache may use. The rest is left for the processes themselves.
SHARE_OF_MEMORY = 0.9

BATCH = 64  # number of images that a loader process handles at once
BLOCK = 10_000  # number of files that are hashed at once


class CachedImages(Dataset[Image.Image]):
    """Images in a file of decoded pixels that is shared between processes.

    The file starts with the height and width of each image (N x 2, int64), followed by the pixels of all images.

    If an image could not be read, both numbers are negative, or 0 if its size is also unknown. Such an image is read
    again whenever it is requested, which raises the original error.

    Args:
        path: path of the file.
        images: the N original images.
        filling: whether to open the file for writing.

    Raises:
        ValueError: the file does not contain N images.
    """

    def __init__(self, path: str | os.PathLike, images: ImageFiles, *, filling: bool = False) -> None:
        self.images, count = images, len(images)
        self._file = Path(path).open("r+b" if filling else "rb")  # noqa: SIM115 (kept open: see __reduce__)
        access = mmap.ACCESS_WRITE if filling else mmap.ACCESS_READ
        self.data = np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=access), dtype=np.uint8)
        header = _header(count)
        self.sizes = self.data[: min(header, len(self.data) // 16 * 16)].view(np.int64).reshape(-1, 2)
        self.ends = header + np.cumsum(3 * self.sizes.prod(axis=1))
        signs = np.sign(self.sizes)
        if len(self.sizes) != count or (signs[:, 0] != signs[:, 1]).any() or self.ends[-1] != len(self.data):
            raise ValueError(f"{path} is not a complete cache of {count} images; delete it to create it again")

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that was not forked opens the file through this descriptor, because a file in memory has no name.
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        return _open_again, (path, self.images, self.data.flags.writeable)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, item: int) -> Image.Image:
        return Image.fromarray(self.pixels(item))

    def pixels(self, item: int) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8, that shares the memory of the cache.

        Raises:
            UnreadableImageError: the image cannot be read. The message contains its name.
        """
        height, width = self.sizes[item].tolist()
        if height < 1:
            return self.images.pixels(item)
        end = int(self.ends[item])
        return self.data[end - 3 * height * width : end].reshape(height, width, 3)


def _open_again(path: str, images: ImageFiles, filling: bool) -> CachedImages:
    return CachedImages(path, images, filling=filling)


def cache_images(images: ImageFiles, place: str, folder: str, side: int, num_workers: int) -> CachedImages:
    """Decode all images once, into shared memory or a file.

    All processes of a run must call this function together. The processes of a machine share one cache, and each
    decodes a part of it. A file that an earlier run created for the same images (same path, size and modification time)
    is reused.

    Args:
        images: the images to decode.
        place: ``"ram"`` or ``"disk"``.
        folder: folder for the file if ``place`` is ``"disk"``.
        side: largest length of the shorter side, in pixels. Larger images are shrunk.
        num_workers: number of loader processes for each process.

    Raises:
        ValueError: there is not enough space, or a cache file was truncated.
    """
    final = Path(folder, f"{_identify(images, side)}.pixels") if place == "disk" else None
    if all(comm.all_gather(final is not None and final.is_file())):
        logger.info(f"DATA.CACHE {place}: using {final}")
        return CachedImages(final, images)  # type: ignore[arg-type]
    sizes = shrunken_sizes(images, side, num_workers)
    total = _header(len(images)) + int(3 * sizes.prod(axis=1).sum())
    logger.info(
        f"DATA.CACHE {place}: {len(images)} decoded images with a shorter side of at most {side} pixels take"
        f" {total / 2**30:.2f} GiB"
    )
    with _new_file(final, sizes, total) as path:
        cached = CachedImages(path, images, filling=True)
        _fill(cached, images, num_workers)
        comm.synchronize()
    return cached


@contextmanager
def _new_file(final: Path | None, sizes: np.ndarray, total: int) -> Iterator[str]:
    """Create a file of ``total`` bytes on each machine and yield the path with which this machine's processes open it.

    A file on disk gets its final name after the block. A file in memory has no name and is released when the last
    process that has it open exits or is killed.
    """
    leads = comm.get_local_rank() == 0
    handle = None
    try:
        if leads:
            handle = _open_in_memory(total) if final is None else _open_on_disk(final, total)
            handle.write(sizes.tobytes())
            handle.flush()
        path = None if handle is None else f"/proc/{os.getpid()}/fd/{handle.fileno()}" if final is None else handle.name
        # The first process of each machine created the file.
        here = comm.get_rank() - comm.get_local_rank()
        yield comm.all_gather(path)[here]
        if handle is not None and final is not None:
            os.fsync(handle.fileno())
            Path(handle.name).replace(final)
    except BaseException:
        if handle is not None and final is not None:
            Path(handle.name).unlink(missing_ok=True)
        raise


def _open_in_memory(total: int) -> IO[bytes]:
    if not hasattr(os, "memfd_create"):
        raise ValueError("DATA.CACHE ram requires Linux, where processes can share memory as files; use disk or none")
    check_room("ram", "memory", int(SHARE_OF_MEMORY * available_bytes(torch.device("cpu"))), total)
    handle = os.fdopen(os.memfd_create("mocodet"), "wb")
    _reserve(handle, total)
    return handle


def _open_on_disk(final: Path, total: int) -> IO[bytes]:
    final.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{final.name}.{socket.gethostname()}"
    for left in final.parent.glob(f"{mine}.*.tmp"):
        remove_leftover(left)
    check_room("disk", str(final.parent), shutil.disk_usage(final.parent).free, total)
    path = final.parent / f"{mine}.{os.getpid()}.tmp"
    descriptor = lock_file(path)  # released when the process exits or is killed
    if descriptor is None:
        raise BlockingIOError(f"another process has locked {path}; wait for it, or set another DATA.CACHE_DIR")
    handle = io.BufferedWriter(io.FileIO(str(path), "w", opener=lambda *_: descriptor))  # unlike fdopen, sets a name
    _reserve(handle, total)
    return handle


def _reserve(handle: IO[bytes], total: int) -> None:
    """Allocate the complete file at once, because running out of space later would silently kill a process."""
    handle.truncate(0)  # in case a leftover file could not be removed
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle.fileno(), 0, total)
    else:
        handle.truncate(total)


def check_room(place: str, where: str, free: int, total: int) -> None:
    """Check that ``total`` bytes are available.

    Raises:
        ValueError: there is not enough space. The message contains the available space.
    """
    if total > free:
        raise ValueError(
            f"DATA.CACHE {place} requires {total / 2**30:.2f} GiB of {where}, but only {free / 2**30:.2f} GiB are"
            " available; lower DATA.CACHE_SIDE, or set DATA.CACHE " + ("disk or none" if place == "ram" else "none")
        )


def shrunken_sizes(images: ImageFiles, side: int, num_workers: int) -> np.ndarray:
    """Read the sizes of all images from their file headers, distributed over all processes.

    Returns:
        height and width of each image after shrinking its shorter side to ``side``: N x 2, int64. Both are 0 if the
        image cannot be read or is too large.
    """
    rank, world = comm.get_rank(), comm.get_world_size()
    mine = _run_over(_Sizes(images, side), range(rank, len(images), world), num_workers, "size of an image")
    sizes = np.empty((len(images), 2), dtype=np.int64)
    for other, found in enumerate(comm.all_gather(mine)):
        sizes[other::world] = found
    return sizes


class _Sizes(Dataset[tuple[int, int]]):
    """Returns the height and width of an image in the cache; see `shrunken_sizes`."""

    def __init__(self, images: ImageFiles, side: int) -> None:
        self.images, self.side = images, side

    def __getitem__(self, item: int) -> tuple[int, int]:
        try:
            width, height = image_size(self.images.paths[item])
        except (OSError, ValueError):
            return 0, 0
        if not width * height or 0 < self.images.max_pixels < width * height:
            return 0, 0
        scale = min(1.0, self.side / min(height, width))
        return round(height * scale), round(width * scale)


class _Filling(Dataset[int]):
    """Adds an image to the cache when it is requested, or marks it as unreadable."""

    def __init__(self, cached: CachedImages, images: ImageFiles) -> None:
        self.cached, self.images = cached, images

    def __getitem__(self, item: int) -> int:
        if self.cached.sizes[item, 0] < 1:
            return item
        room = self.cached.pixels(item)
        try:
            pixels = self.images.pixels(item)
        except UnreadableImageError:
            self.cached.sizes[item] *= -1
        else:
            room[:] = pixels if pixels.shape == room.shape else resize(pixels, *room.shape[:2])
        return item


def _fill(cached: CachedImages, images: ImageFiles, num_workers: int) -> None:
    mine = range(comm.get_local_rank(), len(images), comm.get_local_size())
    _run_over(_Filling(cached, images), mine, num_workers, "cached image")


def _run_over(dataset: Dataset, items: range, num_workers: int, what: str) -> np.ndarray:
    """Load items of a data set in loader processes and return an array with one row for each item."""
    batches = load_batches(dataset, num_workers, sampler=items, batch_size=BATCH, collate_fn=np.array)
    total = -(-len(items) // BATCH)
    rows = list(progress(batches, f"{what} / {BATCH}", total) if comm.is_main_process() else batches)
    return np.concatenate(rows) if rows else np.empty((0, 2), dtype=np.int64)


def _header(count: int) -> int:
    return 2 * np.dtype(np.int64).itemsize * count


def _identify(images: ImageFiles, side: int) -> str:
    """Return a 128-bit hexadecimal hash of ``side``, and of the order and current state of the files.

    Each process hashes a part of the files.
    """
    blocks = range(0, len(images), BLOCK)
    mine = blocks[comm.get_rank() :: comm.get_world_size()]
    shown = progress(mine, f"{BLOCK} files", len(mine)) if comm.is_main_process() else mine
    digests = {begin: _digest(images.paths[begin : begin + BLOCK]) for begin in shown}
    for others in comm.all_gather(digests):
        digests |= others
    content = " ".join(["2", str(side), *(digests[begin] for begin in blocks)])  # 2 is the version of the file layout
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _digest(paths: Sequence[str]) -> str:
    found = hashlib.sha256()
    for path in paths:
        try:
            status = Path(path).stat()
            state = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:
            state = "gone"
        found.update(f"{path}\0{state}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()
