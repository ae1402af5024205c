"""Decoded images in shared memory or in a file: each is decoded once, before training."""

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

# Share of the free memory that a cache may take; the rest is for the processes themselves.
SHARE_OF_MEMORY = 0.9

BATCH = 64  # images that a loader process handles at a time
BLOCK = 10_000  # files that are hashed at a time


class CachedImages(Dataset[Image.Image]):
    """Images in a file of decoded pixels, which processes share.

    The file begins with height and width of each image (N x 2, int64); the pixels of all images follow in order.

    If an image could not be read, both numbers are negative, or 0 if even its size is unknown. Such an image is read
    again when it is needed, and raises its error then.

    Args:
        path: the file.
        images: the N original images.
        filling: open the file for writing.

    Raises:
        ValueError: the file does not hold N images.
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
            raise ValueError(f"{path} is not a complete cache of {count} images; remove it to have it made again")

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that was not forked opens the file by this descriptor: a file in memory has no name.
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        return _open_again, (path, self.images, self.data.flags.writeable)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, item: int) -> Image.Image:
        return Image.fromarray(self.pixels(item))

    def pixels(self, item: int) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8: a part of the cache itself.

        Raises:
            UnreadableImageError: it cannot be read; the message names it.
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

    All processes of a run must call it together; those of a machine share one cache and decode a part each. A file that
    an earlier run left for the same images (by path, size and modification time) is reused.

    Args:
        images: the images to decode.
        place: ``"ram"`` or ``"disk"``.
        folder: for ``"disk"``: where the file goes.
        side: images whose shorter side is longer than this, in pixels, are shrunk to it.
        num_workers: loader processes of each process.

    Raises:
        ValueError: there is not enough room, or a cache file was truncated.
    """
    final = Path(folder, f"{_identify(images, side)}.pixels") if place == "disk" else None
    if all(comm.all_gather(final is not None and final.is_file())):
        logger.info(f"DATA.CACHE {place}: using {final}")
        return CachedImages(final, images)  # type: ignore[arg-type]
    sizes = shrunken_sizes(images, side, num_workers)
    total = _header(len(images)) + int(3 * sizes.prod(axis=1).sum())
    logger.info(
        f"DATA.CACHE {place}: {len(images)} decoded images, the shorter side at most {side} pixels, take"
        f" {total / 2**30:.2f} GiB"
    )
    with _new_file(final, sizes, total) as path:
        cached = CachedImages(path, images, filling=True)
        _fill(cached, images, num_workers)
        comm.synchronize()
    return cached


@contextmanager
def _new_file(final: Path | None, sizes: np.ndarray, total: int) -> Iterator[str]:
    """Make a file of ``total`` bytes on each machine, and yield the path by which the processes of this one open it.

    After the block a file on disk gets its final name. A file in memory has no name: it is gone when the last process
    that has it open exits or dies.
    """
    leads = comm.get_local_rank() == 0
    handle = None
    try:
        if leads:
            handle = _open_in_memory(total) if final is None else _open_on_disk(final, total)
            handle.write(sizes.tobytes())
            handle.flush()
        path = None if handle is None else f"/proc/{os.getpid()}/fd/{handle.fileno()}" if final is None else handle.name
        # The first process of each machine made the machine's file.
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
        raise ValueError("DATA.CACHE ram needs Linux, which shares memory between processes as files; set disk or none")
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
    descriptor = lock_file(path)  # released when the process exits or dies
    if descriptor is None:
        raise BlockingIOError(f"another process holds {path}; wait for it, or set another DATA.CACHE_DIR")
    handle = io.BufferedWriter(io.FileIO(str(path), "w", opener=lambda *_: descriptor))  # has a name, unlike fdopen's
    _reserve(handle, total)
    return handle


def _reserve(handle: IO[bytes], total: int) -> None:
    """Allocate the whole file at once: running out of room while filling it would kill a process silently."""
    handle.truncate(0)  # for a leftover that could not be removed
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle.fileno(), 0, total)
    else:
        handle.truncate(total)


def check_room(place: str, where: str, free: int, total: int) -> None:
    """Make sure that ``total`` bytes are available.

    Raises:
        ValueError: they are not; the message says how many are.
    """
    if total > free:
        raise ValueError(
            f"DATA.CACHE {place} needs {total / 2**30:.2f} GiB of {where}, and {free / 2**30:.2f} GiB are available;"
            " lower DATA.CACHE_SIDE, or set DATA.CACHE " + ("disk or none" if place == "ram" else "none")
        )


def shrunken_sizes(images: ImageFiles, side: int, num_workers: int) -> np.ndarray:
    """Read the sizes of all images from the headers of their files, with a part in each process.

    Returns:
        N x 2, int64: height and width of each after shrinking its shorter side to ``side``; 0, 0 if it cannot be read,
        or is too large.
    """
    rank, world = comm.get_rank(), comm.get_world_size()
    mine = _run_over(_Sizes(images, side), range(rank, len(images), world), num_workers, "size of an image")
    sizes = np.empty((len(images), 2), dtype=np.int64)
    for other, found in enumerate(comm.all_gather(mine)):
        sizes[other::world] = found
    return sizes


class _Sizes(Dataset[tuple[int, int]]):
    """Height and width of an image in the cache; see `shrunken_sizes`."""

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
    """Puts an image into the cache when it is requested, or marks it as unreadable."""

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
    """Load items of a data set in loader processes; return an array with a row for each."""
    batches = load_batches(dataset, num_workers, sampler=items, batch_size=BATCH, collate_fn=np.array)
    total = -(-len(items) // BATCH)
    rows = list(progress(batches, f"{what} / {BATCH}", total) if comm.is_main_process() else batches)
    return np.concatenate(rows) if rows else np.empty((0, 2), dtype=np.int64)


def _header(count: int) -> int:
    return 2 * np.dtype(np.int64).itemsize * count


def _identify(images: ImageFiles, side: int) -> str:
    """Return a hash (hexadecimal, 128 bits) of the files' order and present state, and of ``side``.

    Each process hashes some blocks of the files.
    """
    blocks = range(0, len(images), BLOCK)
    mine = blocks[comm.get_rank() :: comm.get_world_size()]
    shown = progress(mine, f"{BLOCK} files", len(mine)) if comm.is_main_process() else mine
    digests = {begin: _digest(images.paths[begin : begin + BLOCK]) for begin in shown}
    for others in comm.all_gather(digests):
        digests |= others
    content = " ".join(["2", str(side), *(digests[begin] for begin in blocks)])  # 2: version of the file's layout
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
