"""A stream of images from WebDataset shards (tar files), for data sets that are too large to list."""

import hashlib
import io
import json
import logging
import queue
import signal
import tarfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import torch
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import Sampler
from torchvision.datasets.folder import IMG_EXTENSIONS
from webdataset.gopen import Pipe, gopen

from mocodet.common.files import atomic_open

from .folders import decode_rgb
from .views import mix

logger = logging.getLogger("mocodet.pretrain")

# An image on its way to a process that decodes it: its name, for messages, and the bytes of its file.
Encoded = tuple[str, bytes]

# What the images of the shuffle buffer may take in each process, by the mean size of an image.
MAX_BUFFER_BYTES = 2**30

# Seconds to wait before a shard that could not be read is tried again.
RETRY_DELAYS = (1.0, 5.0, 25.0)

INDEX_VERSION = 1


class ShardIndex:
    """Names and sizes of the shards of a data set; no names of images.

    The index is a JSON file, ``{"version": 1, "shards": [{"name": …, "images": …, "bytes": …}, …]}``, as
    `tools/make_shards.py` writes it. A name that is neither absolute nor a URL is relative to the index.

    Args:
        location: path or URL of the index.

    Raises:
        FileNotFoundError: the index is not there.
        ValueError: what is there is no index.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        entries = _read_index(location)
        self.names = [entry["name"] for entry in entries]
        self.images = np.array([entry["images"] for entry in entries], dtype=np.int64)  # one number a shard
        self.bytes = sum(entry["bytes"] for entry in entries)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, shard: int) -> str:
        """Return where the shard of this number is."""
        name = self.names[shard]
        if is_url(name) or name.startswith("/"):
            return name
        folder, slash, _ = self.location.rpartition("/")
        return folder + slash + name

    def digest(self) -> str:
        """Hash the names and the numbers of images."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        digest.update(self.images.tobytes())
        return digest.hexdigest()[:16]


def write_index(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write an index: of each shard, ``name``, ``images`` (how many) and ``bytes`` (of their files, summed)."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    with atomic_open(path, "w", encoding="utf-8") as handle:
        handle.write(f'{{"version": {INDEX_VERSION}, "shards": [\n{lines}\n]}}\n')


def _read_index(location: str) -> list[dict[str, Any]]:
    """Read the entries of an index and check that they say what they must."""
    how = "DATA.SHARDS is an index that tools/make_shards.py writes, with --index for shards that are there already"
    if not is_url(location) and Path(location).is_dir():
        raise FileNotFoundError(f"{location} is a folder; {how}")
    if location.endswith(".tar") or "{" in location:
        raise ValueError(f"{location!r} names shards, not an index; {how}")
    try:
        with open_location(location) as stream:
            text = stream.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {how}") from error
    except OSError as error:
        raise ValueError(f"{location} cannot be read ({error})") from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{location} is not JSON ({error}); {how}") from error
    entries = content.get("shards") if isinstance(content, dict) else None
    if not isinstance(entries, list) or content.get("version") != INDEX_VERSION:
        raise ValueError(f"{location} is no index of shards, version {INDEX_VERSION}; {how}")
    if not entries:
        raise ValueError(f"{location} lists no shard")
    for number, entry in enumerate(entries):
        name, images, size = (isinstance(entry, dict) and entry.get(key) for key in ("name", "images", "bytes"))
        if not (isinstance(name, str) and type(images) is type(size) is int and images > 0 and size > 0):
            raise ValueError(f"{location}: shard {number} has not a name, images > 0 and bytes > 0: {entry!r:.200}")
        if location.startswith("pipe:") and not (is_url(name) or name.startswith("/")):
            raise ValueError(f"{location} has no folder that shard {name!r} could be relative to; name it in full")
    return entries


class ShardSampler(Sampler[list[tuple[Encoded, int]]]):
    """An endless stream of batches from shards, each epoch in a new order.

    In an epoch the shards stand in a random order in a ring, which begins at a random image. Each process has an equal
    run of it, so that every image is read once whatever the sizes of the shards; a shard on a border is opened by two
    processes. A process reads its run in windows of ``shuffle_buffer`` images and yields each window in a random order.
    All of it is a function of the seed, the epoch and the number of processes: any iteration can be reached by
    reading from the beginning of its window. Images left over when the batch does not divide the data set, fewer
    than a batch, wait for a later epoch.

    A thread reads ahead while batches are taken, as far as the buffer has room: at most ``shuffle_buffer`` images
    and those of one batch are held, as encoded bytes. Iterate in the training process; what is yielded can be decoded
    anywhere, by `ShardImages`.

    Args:
        location: path or URL of the index (see `ShardIndex`).
        batch_size: images in a batch, over all processes.
        seed: the same in all processes.
        shuffle_buffer: images in a window; fewer if that many, of average size, exceed `MAX_BUFFER_BYTES`.

    Raises:
        FileNotFoundError, ValueError: no index, a batch larger than the data set, or one that does not divide between
            the processes; while iterating, a shard that is not there, is damaged, or is not as the index says.
    """

    def __init__(self, location: str, batch_size: int, seed: int, shuffle_buffer: int) -> None:
        self.index = ShardIndex(location)
        self.dataset_size = int(self.index.images.sum())
        self.batch_size = batch_size
        self.seed = seed
        self.start_iteration = 0
        world = comm.get_world_size()
        if self.dataset_size < batch_size:
            raise ValueError(
                f"the shards of {location} have {self.dataset_size} images, fewer than one batch of"
                f" SOLVER.IMS_PER_BATCH {batch_size}; lower it or add images"
            )
        if batch_size % world:
            raise ValueError(f"SOLVER.IMS_PER_BATCH {batch_size} does not divide between {world} processes")
        self.rows = batch_size // world
        mean = self.index.bytes / self.dataset_size
        self.window = min(shuffle_buffer, max(1, int(MAX_BUFFER_BYTES / mean)))
        if self.window < shuffle_buffer:
            logger.warning(
                f"DATA.SHUFFLE_BUFFER {shuffle_buffer}: images of {mean / 1000:.0f} kB would take"
                f" {shuffle_buffer * mean / 2**30:.1f} GiB in each process; using {self.window}, 1 GiB"
            )

    @property
    def iterations_per_epoch(self) -> int:
        """Whole batches in the data set."""
        return self.dataset_size // self.batch_size

    @property
    def share(self) -> int:
        """Images of an epoch that one process reads."""
        return self.iterations_per_epoch * self.rows

    def __iter__(self) -> Iterator[list[tuple[Encoded, int]]]:
        """Yield this process's part of each batch from ``start_iteration`` on, as pairs ``((name, bytes), draw)``.

        ``draw`` is the place of the sample in the stream of the global batches, and unlike in any other batch.
        """
        first_epoch, iteration = divmod(self.start_iteration, self.iterations_per_epoch)
        first_window, done = divmod(iteration * self.rows, self.window)
        first_row = comm.get_rank() * self.rows
        ahead = _ReadAhead(self._read(first_epoch, first_window), limit=self.window)
        try:
            batch = []
            for epoch, window, size in self._windows(first_epoch, first_window):
                images = [ahead.get() for _ in range(size)]
                for number, place in enumerate(self._window_order(epoch, window, size)):
                    image, images[place] = images[place], None
                    ahead.release()
                    if number < done:
                        continue
                    iteration, row = divmod(window * self.window + number, self.rows)
                    draw = (epoch * self.iterations_per_epoch + iteration) * self.batch_size + first_row + row
                    batch.append((image, draw))
                    if len(batch) == self.rows:
                        yield batch
                        batch = []
                done = 0
        finally:
            ahead.close()

    def _windows(self, epoch: int, window: int) -> Iterator[tuple[int, int, int]]:
        """Yield (epoch, number, images) of each window of this process, from the given one on, without end."""
        while True:
            for number in range(window, -(-self.share // self.window)):
                yield epoch, number, min(self.window, self.share - number * self.window)
            epoch, window = epoch + 1, 0

    def _window_order(self, epoch: int, window: int, size: int) -> list[int]:
        place = comm.get_rank() * self.share + window * self.window
        # Unlike the seed of the epoch's own order, and of any other window's.
        generator = torch.Generator().manual_seed(mix(mix(self.seed, epoch), place))
        return torch.randperm(size, generator=generator).tolist()

    def _read(self, epoch: int, window: int) -> Iterator[Encoded]:
        """Read this process's images from the given window on, as they stand in the shards, without end."""
        begin = window * self.window
        while True:
            for shard, first, last in self._parts(epoch, comm.get_rank() * self.share + begin, self.share - begin):
                yield from self._read_part(shard, first, last)
            epoch, begin = epoch + 1, 0

    def _parts(self, epoch: int, begin: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, first, last + 1) of ``count`` images from the place ``begin`` in the ring of an epoch."""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        order = torch.randperm(len(self.index), generator=generator).numpy()
        ends = np.cumsum(self.index.images[order])
        begin += int(torch.randint(self.dataset_size, (), generator=generator))
        while count:
            begin %= self.dataset_size
            number = int(np.searchsorted(ends, begin, side="right"))
            shard = int(order[number])
            first = int(self.index.images[shard]) - (int(ends[number]) - begin)
            length = min(count, int(ends[number]) - begin)
            yield shard, first, first + length
            begin, count = begin + length, count - length

    def _read_part(self, shard: int, first: int, last: int) -> Iterator[Encoded]:
        path, expected = self.index.path(shard), int(self.index.images[shard])
        images, number = read_images(path, first), first
        try:
            for number, image in enumerate(images, first + 1):
                if number > expected:
                    raise ValueError(f"{path} has more images than the {expected} that {self.index.location} says")
                yield image
                if number == last < expected:
                    return
        finally:
            images.close()
        if number < expected:
            raise ValueError(
                f"{path} has fewer images than the {expected} that {self.index.location} says: it is cut off, or was"
                " replaced after the index was written"
            )

    def state_dict(self) -> dict[str, int | str]:
        """Return what the meaning of an iteration number depends on."""
        return {
            "shards": self.index.digest(),
            "dataset_size": self.dataset_size,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "processes": comm.get_world_size(),
            "shuffle_buffer": self.window,
        }

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Check that this sampler continues the stream of the one that ``state`` came from.

        Raises:
            ValueError: the shards, the batch, the seed, the number of processes or the shuffle buffer is another.
        """
        mine = self.state_dict()
        changed = [key for key in {**mine, **state} if mine.get(key) != state.get(key)]
        if changed:
            then, now = ({key: values.get(key) for key in changed} for values in (state, mine))
            raise ValueError(
                f"the checkpoint was written with {then}, this run has {now}, and would see other images; resume with"
                " the same shards, SOLVER.IMS_PER_BATCH, SEED, DATA.SHUFFLE_BUFFER and number of processes, or start"
                " anew in another OUTPUT_DIR"
            )


class ShardImages:
    """Decodes what `ShardSampler` yields."""

    def __getitem__(self, item: Encoded) -> Image.Image:
        """Return the RGB image of ``(name, bytes)``.

        Raises:
            ValueError: it cannot be decoded; the message names shard and member.
        """
        name, data = item
        return decode_rgb(io.BytesIO(data), name)


def read_images(shard: str, first: int = 0) -> Iterator[Encoded]:
    """Yield (name, bytes) of the images of one shard, from number ``first`` on, in the order they stand in.

    Every member whose file name is an image's is an image; others (captions, JSON) are passed over. Where a read fails,
    the shard is opened again after a while and read on from that place.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: it is damaged, or still cannot be read after the last of `RETRY_DELAYS`; the message names it.
    """
    for delay in (*RETRY_DELAYS, None):
        try:
            for image in islice(_read_images_once(shard), first, None):
                yield image
                first += 1
            return
        except FileNotFoundError:
            raise
        except OSError as error:
            if delay is None or isinstance(error, (PermissionError, IsADirectoryError)):
                raise ValueError(f"{shard} cannot be read ({error})") from error
            logger.warning(f"{shard}: {error}; reading on at image {first} in {delay:g} s")
            time.sleep(delay)


def _read_images_once(shard: str) -> Iterator[Encoded]:
    stream, fault, at_end = open_location(shard), None, False
    try:
        try:
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictTarInfo) as archive:
                for member in archive:
                    if member.isreg() and _is_image(member.name):
                        yield f"{shard}: {member.name}", archive.extractfile(member).read()
                    archive.members = []  # which it would keep all
        except (tarfile.TarError, zlib.error, LZMAError, EOFError) as error:
            fault = str(error)
        if isinstance(stream, Pipe):
            # A command that fails looks like the end of the archive; only its status tells.
            while stream.read(2**20):
                pass
        at_end = True
        stream.close()
    except OSError as error:
        if isinstance(stream, Pipe) and stream.status:
            raise OSError(f"its command ended with status {stream.status}") from error
        raise
    finally:
        if not at_end:
            _abandon(stream)
    if fault:
        raise ValueError(f"{shard} is damaged, or no tar archive ({fault})")


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is cut off or garbled is an error; tarfile, and webdataset with it, take it for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error


def open_location(location: str) -> IO[bytes]:
    """Open a path, a URL of any of fsspec's file systems, or ``pipe:COMMAND``, for reading.

    A pipe's ``close`` raises ``OSError`` if the command has failed.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a kind of URL that is unknown, or needs a package that is not installed.
    """
    if location.startswith("pipe:"):
        stream = gopen(location)
        stream.ignore_status = [0, 128 + signal.SIGPIPE, -signal.SIGPIPE]  # we may close before the command ends
        return stream
    try:
        if "://" in location:
            return fsspec.open(location, "rb").open()
        return Path(location).open("rb")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{location} is not there") from error
    except (ImportError, ValueError) as error:
        raise ValueError(f"{location} cannot be opened: {error}") from error


def is_url(location: str) -> bool:
    """Say whether this is a URL or a ``pipe:`` command, and not a path."""
    return location.startswith("pipe:") or "://" in location


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS) and not name.rpartition("/")[2].startswith(".")


def _abandon(stream: IO[bytes]) -> None:
    """Close a stream that was not read to its end, whatever its command says to that."""
    if isinstance(stream, Pipe):
        stream.ignore_errors = True
        stream.proc.terminate()
    stream.close()


class _ReadAhead:
    """Runs a generator in a thread, at most ``limit`` items ahead of those that were released."""

    def __init__(self, items: Iterator[Encoded], limit: int) -> None:
        self._items = items
        self._read: queue.SimpleQueue[Encoded | Exception] = queue.SimpleQueue()
        self._room = threading.Semaphore(limit)
        self._closed = False
        threading.Thread(target=self._run, name="read shards", daemon=True).start()

    def _run(self) -> None:
        try:
            while self._room.acquire() and not self._closed:
                self._read.put(next(self._items))
        except Exception as error:  # for the training process to raise, when it comes to this place
            self._read.put(error)
        finally:
            self._items.close()

    def get(self) -> Encoded:
        """Return the next item; raise what the generator raised there."""
        item = self._read.get()
        if isinstance(item, Exception):
            raise item
        return item

    def release(self) -> None:
        """Say that one item is needed no longer."""
        self._room.release()

    def close(self) -> None:
        """End the thread after what it reads just now."""
        self._closed = True
        self._room.release()
