"""Streams images from WebDataset shards (tar files), for data sets that are too large to list."""

import hashlib
import json
import logging
import os
import queue
import signal
import tarfile
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import numpy as np
import torch
from detectron2.utils import comm
from webdataset import utils
from webdataset.gopen import Pipe

from mocodet.common.files import atomic_open
from mocodet.common.formats.image import image_suffixes
from mocodet.common.text import is_text

from .decoding import EncodedImages
from .retrying import LastingError, delays, reason
from .sampler import GlobalBatches
from .tars import LeftoverError, open_tar
from .views import mix
from .web import WebFile

logger = logging.getLogger("mocodet.pretrain")

# An encoded image: its name for messages, and the contents of its file.
Encoded = tuple[str, bytes]

# Maximum size of the shuffle buffer in each process, estimated from the mean image size. Together with PyTorch and the
# index, it fits into 2 GB.
MAX_BUFFER_BYTES = 3 * 2**28

# Maximum time in seconds for a command to exit after its output has ended.
COMMAND_ENDS_WITHIN = 60.0

# Seconds between warnings while the run is waiting for images.
WAITING_PERIOD = 60.0

INDEX_VERSION = 1

LARGEST = 1 << 48  # limit for the images or bytes in a shard; sums of many such numbers fit into 64 bits

PIPE = "pipe:"  # prefix of a command whose output is read

Found = TypeVar("Found")
Take = Callable[[tarfile.TarFile, tarfile.TarInfo], Found]


class ShardIndex:
    """Names and sizes of the shards in a data set, without the names of images.

    The index is a JSON file, ``{"version": 1, "shards": [{"name": …, "images": …, "bytes": …}, …]}``, as written by
    `mocodet shards`. A name that is neither absolute nor a URL is relative to the index.

    Args:
        location: path or URL of the index.
        allow_pipe: whether ``location`` may be a command that prints the index, and whether an index in a local file
            may contain commands; see `open_location`.

    Raises:
        FileNotFoundError: the index does not exist.
        ValueError: the file is not an index, or contains commands that are not allowed. No command is run in this case.
    """

    def __init__(self, location: str, *, allow_pipe: bool = False) -> None:
        self.location = location
        entries = _read_index(location, allow_pipe)
        self.names = [entry["name"] for entry in entries]
        self.images = np.array([entry["images"] for entry in entries], dtype=np.int64)  # one number for each shard
        self.bytes = sum(entry["bytes"] for entry in entries)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, shard: int) -> str:
        """Return the location of the shard with the given number."""
        name = self.names[shard]
        if is_url(name) or name.startswith("/"):
            return name
        location = self.location.partition("?")[0] if is_url(self.location) else self.location  # without the URL query
        folder, slash, _ = location.rpartition("/")
        return folder + slash + name

    def digest(self) -> str:
        """Hash the names of the shards and the number of images in each."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        digest.update(self.images.tobytes())
        return digest.hexdigest()[:16]


def write_index(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write an index with the ``name``, the number of ``images`` and the total ``bytes`` of each shard."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    with atomic_open(path, "w", encoding="utf-8") as handle:
        handle.write(f'{{"version": {INDEX_VERSION}, "shards": [\n{lines}\n]}}\n')


def _read_index(location: str, allow_pipe: bool) -> list[dict[str, Any]]:
    """Read the entries of an index and check their contents and permissions."""
    how = "DATA.SHARDS must be an index written by mocodet shards (use --index for existing shards)"
    if not is_url(location) and Path(location).is_dir():
        raise FileNotFoundError(f"{location} is a folder; {how}")
    try:
        with open_location(location, allow_pipe) as stream:
            text = stream.read(512)
            shard = b"\0" in text  # as in the header of an archive. Its remaining contents are not read
            text += b"" if shard else stream.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {how}") from error
    except LastingError:
        raise
    except Exception as error:  # file system packages may raise errors of any type
        raise ValueError(f"{location} cannot be read ({reason(error)}); {how}") from error
    if shard:
        raise ValueError(f"{location} is not a text file and may be a shard; {how}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location} is not valid JSON ({error}); {how}") from error
    entries = content.get("shards") if isinstance(content, dict) else None
    if not isinstance(entries, list) or content.get("version") != INDEX_VERSION:
        raise ValueError(f"{location} is not an index of shards with version {INDEX_VERSION}; {how}")
    if not entries:
        raise ValueError(f"{location} lists no shards")
    for number, entry in enumerate(entries):
        name, images, size = (isinstance(entry, dict) and entry.get(key) for key in ("name", "images", "bytes"))
        numbers = type(images) is type(size) is int and 0 < images < LARGEST and 0 < size < LARGEST
        if not (isinstance(name, str) and numbers and is_text(name)):
            raise ValueError(f"{location}: shard {number} must have a name, images > 0 and bytes > 0: {entry!r:.200}")
        if location.startswith(PIPE) and not (is_url(name) or name.startswith("/")):
            raise ValueError(f"{location} has no folder that shard {name!r} could be relative to; use its full path")
    _check_commands(location, [entry["name"] for entry in entries], allow_pipe)
    return entries


def _check_commands(location: str, names: Sequence[str], allow_pipe: bool) -> None:
    """Reject an index that contains commands, unless they are allowed and the index is a local file.

    For an index that is not local, fsspec's chained URLs, such as ``reference://::https://…``, are also rejected,
    because they pass one file to another file system as its settings.
    """
    fetched = location.startswith(PIPE) or is_fetched(location)
    commands = [name for name in names if name.startswith(PIPE) or (fetched and "::" in name)]
    if not commands:
        return
    what = f"{location} lists {len(commands)} shards as commands, such as {commands[0]!r:.200}; none was run. "
    if fetched:
        raise ValueError(
            f"{what}Commands in an index that is not a local file are never run: download and read the index, then set"
            " DATA.SHARDS to the local copy and add --allow-pipe"
        )
    if not allow_pipe:
        raise ValueError(f"{what}They would run in a shell: read them, and add --allow-pipe if you trust all of them")


class ShardSampler(GlobalBatches):
    """An endless stream of batches from shards, in a new order in each epoch.

    In each epoch, the shards form a ring in random order, which starts at a random image. Each process reads a segment
    with the same number of images, so that every image is read once regardless of the shard sizes. A shard at the
    border of two segments is opened by both processes. A process reads its segment in windows of ``shuffle_buffer``
    images and yields each window in random order. The order depends only on the seed, the epoch and the number of
    processes. To resume at an iteration, a process reads from the beginning of its window. If the batch size does not
    divide the number of images, the remaining images, fewer than a batch, are left to later epochs.

    A thread reads ahead until the buffer is full. At most ``shuffle_buffer`` images and those of one batch are in
    memory, as encoded bytes. Iterate in the training process. `ShardImages` can decode the images in any process.

    Args:
        location: path or URL of the index (see `ShardIndex`).
        batch_size: number of images per batch over all processes.
        seed: seed of the order, which must be the same in all processes.
        shuffle_buffer: number of images in a window. It is reduced if that number of images of average size would
            exceed `MAX_BUFFER_BYTES`.
        allow_pipe: see `ShardIndex`.

    Raises:
        FileNotFoundError, ValueError: the index does not exist, or the batch is larger than the data set or cannot be
            divided evenly among the processes; during iteration, a shard does not exist, is damaged, or does not match
            the index.
    """

    RESUME_WITH = "shards, SOLVER.IMS_PER_BATCH, SEED, DATA.SHUFFLE_BUFFER and number of processes"

    def __init__(
        self, location: str, batch_size: int, seed: int, shuffle_buffer: int, *, allow_pipe: bool = False
    ) -> None:
        self.index = ShardIndex(location, allow_pipe=allow_pipe)
        self._allow_pipe = allow_pipe
        super().__init__(int(self.index.images.sum()), batch_size, seed, f"the shards of {location} have")
        mean = self.index.bytes / self.dataset_size
        self.window = min(shuffle_buffer, max(1, int(MAX_BUFFER_BYTES / mean)))
        if self.window < shuffle_buffer:
            logger.warning(
                f"DATA.SHUFFLE_BUFFER {shuffle_buffer}: images of {mean / 1000:.0f} kB would take"
                f" {shuffle_buffer * mean / 2**30:.1f} GiB in each process; using a buffer of {self.window} images"
                f" ({MAX_BUFFER_BYTES / 2**30:g} GiB) instead"
            )
        self.share = self.iterations_per_epoch * self.rows  # images of an epoch that each process reads
        self._reading = location  # the current shard, for messages

    def __iter__(self) -> Iterator[list[tuple[Encoded, int]]]:
        """Yield this process's part of each batch from ``start_iteration`` on, as pairs ``((name, bytes), draw)``.

        ``draw`` is the position of the sample in the stream of global batches, which is unique.
        """
        first_epoch, iteration = divmod(self.start_iteration, self.iterations_per_epoch)
        first_window, done = divmod(iteration * self.rows, self.window)
        first_row = comm.get_rank() * self.rows
        ahead = _ReadAhead(self._read(first_epoch, first_window), self.window, lambda: self._reading)
        try:
            batch = []
            for epoch, window, size in self._windows(first_epoch, first_window):
                images = {place: ahead.get() for place in range(size)}
                for number, place in enumerate(self._window_order(epoch, window, size)):
                    image = images.pop(place)
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
        """Yield (epoch, number, images) for each window of this process, from the given one on, without end."""
        while True:
            for number in range(window, -(-self.share // self.window)):
                yield epoch, number, min(self.window, self.share - number * self.window)
            epoch, window = epoch + 1, 0

    def _window_order(self, epoch: int, window: int, size: int) -> list[int]:
        place = comm.get_rank() * self.share + window * self.window
        # This seed differs from that of the epoch's order and from those of all other windows.
        generator = torch.Generator().manual_seed(mix(mix(self.seed, epoch), place))
        return torch.randperm(size, generator=generator).tolist()

    def _read(self, epoch: int, window: int) -> Generator[Encoded, None, None]:
        """Read this process's images from the given window on, in the order of the shards, without end."""
        begin = window * self.window
        while True:
            for shard, first, last in self._parts(epoch, comm.get_rank() * self.share + begin, self.share - begin):
                yield from self._read_part(shard, first, last)
            epoch, begin = epoch + 1, 0

    def _parts(self, epoch: int, begin: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, first, last + 1) for ``count`` images, starting at ``begin`` in the ring of an epoch."""
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
        self._reading = path
        images, number = read_images(path, first, allow_pipe=self._allow_pipe), first
        try:
            for number, image in enumerate(images, first + 1):
                if number > expected:
                    raise ValueError(
                        f"{path} contains more images than the {expected} listed in {self.index.location}; count them"
                        " again with mocodet shards --index"
                    )
                yield image
                if number == last < expected:
                    return
        finally:
            images.close()
        if number < expected:
            raise ValueError(
                f"{path} contains fewer images than the {expected} listed in {self.index.location}; it was truncated or"
                " replaced after the index was written"
            )

    def state_dict(self) -> dict[str, int | str]:
        """Return the values that determine which images belong to an iteration."""
        return {
            **super().state_dict(),
            "shards": self.index.digest(),
            "processes": comm.get_world_size(),
            "shuffle_buffer": self.window,
        }


class ShardImages(EncodedImages):
    """Decodes the images that `ShardSampler` yields."""

    def encoded(self, item: Encoded) -> Encoded:
        """Return ``item``, the name and bytes of an image, unchanged. The name contains the shard and the member."""
        return item


def read_images(shard: str, first: int = 0, *, allow_pipe: bool = False) -> Generator[Encoded, None, None]:
    """Yield the name and bytes of each image in a shard in order, starting at number ``first``.

    All members with an image file name are images. Others, such as captions and JSON files, are skipped. Concatenated
    archives count as one shard. If a read fails, the shard is opened again after a delay and reading continues at the
    same image. See `open_location` for ``allow_pipe``.

    Raises:
        FileNotFoundError: the shard does not exist.
        ValueError: the shard is damaged, is followed by other data, contains an image that is a link, or still cannot
            be read after the last of `retrying.RETRY_DELAYS`. The message contains the name of the shard.
    """

    def take(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Encoded:
        return f"{shard}: {member.name}", archive.extractfile(member).read()  # type: ignore[union-attr]

    return _read(shard, first, take, allow_pipe)


def image_sizes(shard: str, *, allow_pipe: bool = False) -> Iterator[int]:
    """Yield the size of each image in a shard in bytes. An uncompressed local file is not read completely."""
    return _read(shard, 0, lambda _, member: member.size, allow_pipe)


def _read(shard: str, first: int, take: Take[Found], allow_pipe: bool) -> Generator[Found, None, None]:
    """Yield the result of ``take`` for each image, retrying after failures; see `read_images`."""
    waits = delays()
    while True:
        try:
            for found in _read_once(shard, first, take, allow_pipe):
                yield found
                first, waits = first + 1, delays()
            return
        except (FileNotFoundError, LastingError, MemoryError):
            raise
        except Exception as error:  # file system packages may raise errors of any type
            delay = next(waits, None)
            if delay is None and isinstance(error, tarfile.TarError):
                raise ValueError(str(error)) from error
            if delay is None or isinstance(error, (PermissionError, IsADirectoryError)):
                raise ValueError(f"{shard} cannot be read ({reason(error)})") from error
            logger.warning(f"{shard}: {reason(error)}; retrying from image {first} in {delay:g} s")
            time.sleep(delay)


def _read_once(shard: str, first: int, take: Take[Found], allow_pipe: bool) -> Iterator[Found]:
    stream, closed, number = open_location(shard, allow_pipe), False, 0
    fault: Exception | None = None
    try:
        try:
            with open_tar(stream) as archive:
                for member in archive:
                    if _is_image(member):
                        if member.issym() or member.islnk():
                            raise LastingError(
                                f"{shard}: {member.name} is a link to {member.linkname} instead of a file; create the"
                                " archive again with tar --dereference --hard-dereference"
                            )
                        if number >= first:
                            yield take(archive, member)
                        number += 1
                    archive.members = []  # type: ignore[attr-defined] # otherwise, it would store all members
        except LeftoverError as error:
            fault = LastingError(f"{shard}: {error}; remove them, or create the archive again")
        except (tarfile.TarError, EOFError) as error:
            # A download may have been truncated, which not all servers report.
            kind = tarfile.ReadError if is_fetched(shard) else LastingError
            fault = kind(f"{shard} is damaged or is not a tar archive ({error})")
        if isinstance(stream, Pipe):
            # The end of a failed command's output looks like the end of the archive. Only its exit status differs.
            while stream.read(2**20):
                pass
        stream.close()
        closed = True
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{shard} does not exist") from error
    except OSError as error:
        if isinstance(stream, Pipe) and stream.status:
            raise OSError(f"its command exited with status {stream.status}") from error
        raise
    finally:
        if not closed:
            _abandon(stream)
    if fault:
        raise fault


def open_location(location: str, allow_pipe: bool = False) -> IO[bytes]:
    """Open a path, an HTTP(S) URL, a URL of any fsspec file system, or ``pipe:COMMAND`` for reading.

    A `WebFile` may raise its errors at the first read. Closing a pipe raises ``OSError`` if the command has failed.

    Args:
        location: the path, URL or command.
        allow_pipe: whether a command may be run, in a shell.

    Raises:
        FileNotFoundError: the location does not exist.
        ValueError: the type of URL is unknown or requires a package that is not installed; or a command is not allowed,
            or is prohibited by webdataset's WDS_SECURE=1 in the environment.
    """
    if location.startswith(PIPE):
        if not allow_pipe:
            raise LastingError(
                f"{location} is a command that was not run, because it would run in a shell; add --allow-pipe if you"
                " trust it"
            )
        if utils.enforce_security:
            raise LastingError(f"{location} is a command, but WDS_SECURE is set in the environment; unset it")
        stream = Pipe(
            location.removeprefix(PIPE),
            mode="rb",
            timeout=COMMAND_ENDS_WITHIN,
            ignore_status=[128 + signal.SIGPIPE, -signal.SIGPIPE],  # the pipe may be closed before the command ends
            shell=True,
            start_new_session=True,  # a process group that can be killed together
        )
        weakref.finalize(stream, _kill_group, stream.proc.pid)  # also runs when this process exits
        return stream
    if location.startswith(("http://", "https://")) and "::" not in location:
        return WebFile(location)  # type: ignore[return-value] # only lacks attributes of files on disk
    try:
        if "://" in location:
            return fsspec.open(location, "rb").open()
        return Path(location).open("rb")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{location} does not exist") from error
    except (ImportError, ValueError) as error:
        raise LastingError(f"{location} cannot be opened: {error}") from error


def is_url(location: str) -> bool:
    """Return whether a location is a URL or a ``pipe:`` command instead of a path."""
    return location.startswith(PIPE) or "://" in location


def is_fetched(location: str) -> bool:
    """Return whether a location is on a network, based on its name."""
    return "://" in location and not location.startswith((PIPE, "file://", "local://"))


def _is_image(member: tarfile.TarInfo) -> bool:
    """Return whether a file or link has an image file name and is neither hidden nor in a hidden folder."""
    hidden = any(part.startswith(".") and part not in (".", "..") for part in member.name.split("/"))
    file = member.isreg() or member.issym() or member.islnk()
    return file and member.name.lower().endswith(image_suffixes()) and not hidden


def _abandon(stream: IO[bytes]) -> None:
    """Close a stream that was not read completely, ignoring errors of its command or file system."""
    if isinstance(stream, Pipe):
        _kill_group(stream.proc.pid)
    with suppress(Exception):
        stream.close()


def _kill_group(leader: int) -> None:
    """Kill a command and all of its child processes, which need no cleanup because they only print."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


class _ReadAhead:
    """Runs a generator in a thread, at most ``limit`` items ahead of those that were released.

    ``source`` returns the name of the current shard for messages.
    """

    def __init__(self, items: Generator[Encoded, None, None], limit: int, source: Callable[[], str]) -> None:
        self._items = items
        self._source = source
        self._read: queue.SimpleQueue[Encoded | BaseException] = queue.SimpleQueue()
        self._room = threading.Semaphore(limit)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="read shards", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._room.acquire() and not self._closed:
                self._read.put(next(self._items))
        except BaseException as error:  # raised by `get` at this position
            self._read.put(error)
        finally:
            self._items.close()

    def get(self) -> Encoded:
        """Return the next item, or raise the error that the generator raised instead of it.

        Raises:
            RuntimeError: the thread does not exist, for example in a forked process.
        """
        item, periods = None, 0
        while item is None:
            alive = self._thread.is_alive()
            try:
                item = self._read.get(timeout=WAITING_PERIOD if alive else 0)
            except queue.Empty:
                if not alive:
                    raise RuntimeError(f"the thread that reads {self._source()} is no longer running") from None
                periods += 1
                logger.warning(f"still waiting for {self._source()} after {periods * WAITING_PERIOD:g} s")
        if isinstance(item, BaseException):
            raise item
        return item

    def release(self) -> None:
        """Allow the thread to read one more item."""
        self._room.release()

    def close(self) -> None:
        """Stop the thread after its current item."""
        self._closed = True
        self._room.release()
