"""The command ``mocodet shards``, which writes WebDataset shards from a folder of images, or an index of shards."""

import argparse
import hashlib
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from braceexpand import braceexpand
from PIL import Image
from webdataset import TarWriter

from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open, remove_leftovers
from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.image import decode_rgb, read_file, unreadable
from mocodet.common.locks import claim
from mocodet.common.progress import progress

from .folders import ImageFolder, passed_over
from .shards import image_sizes, is_url, write_index
from .unfinished import Unfinished
from .views import mix

INDEX_NAME = "index.json"
MAX_FAULTS = 100  # stop after this number of shards that cannot be counted
JPEG_QUALITY = 95

Result = TypeVar("Result")


class Loaded(NamedTuple):
    """An image that can be decoded and is ready to be written.

    Attributes:
        place: position in the order of writing, which also counts damaged images.
        path: path relative to the folder of images.
        extension: file extension, without the dot.
        data: contents of the image file.
    """

    place: int
    path: str
    extension: str
    data: bytes


class Summary(NamedTuple):
    """A summary of the shards that were written.

    Attributes:
        shards: number of shards.
        images: number of images in all shards.
        bytes: total size of the image files.
        damaged: messages about the images that were omitted.
        passed_over: number of files in the folder that are not images, by extension.
    """

    shards: int
    images: int
    bytes: int
    damaged: Sequence[str] = ()
    passed_over: int = 0


def make_shards(
    root: str | os.PathLike,
    output: str | os.PathLike,
    *,
    images_per_shard: int = 10_000,
    max_size: int = 10**9,
    resize: int = 0,
    shuffle: bool = True,
    seed: int = 0,
    skip_damaged: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int = 1,
) -> Summary:
    """Write the images below ``root`` to shards in the folder ``output``, together with their index.

    If the function is interrupted, the complete shards remain. Calling it again with the same arguments continues after
    these shards and writes the same bytes as an uninterrupted call.

    Args:
        root: folder to search recursively, as in `ImageFolder`.
        output: folder for the shards, created if necessary. It must be empty or contain the shards of an interrupted
            call.
        images_per_shard: maximum number of images per shard, at least 1.
        max_size: maximum total size of the images in a shard, in bytes. A larger image gets a separate shard.
        resize: largest length of the shorter side, in pixels. Larger images are shrunk and saved as JPEG. All others
            are stored unchanged. 0 stores all images unchanged.
        shuffle: whether to write the images in random order instead of sorted by path.
        seed: seed for the random order.
        skip_damaged: whether to omit images that cannot be decoded instead of raising an error.
        max_pixels: maximum number of pixels in an image, or 0 for no limit.
        workers: number of threads that read, decode and shrink images.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or contains no images.
        FileExistsError: ``output`` is a file, or contains something else.
        BlockingIOError: another process is writing to ``output``.
        ValueError: an image is damaged or, with ``skip_damaged``, all images are damaged; see also `Unfinished`.
    """
    root, output = Path(root), Path(output)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; expected a folder of images")
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} exists and is not an empty folder; choose another --output, or empty it")
    folder = ImageFolder(root)
    paths = folder.paths
    settings = {
        "images": _digest(os.path.relpath(path, root) for path in paths),
        **{"images_per_shard": images_per_shard, "max_size": max_size, "resize": resize, "max_pixels": max_pixels},
        **{"shuffle": shuffle, "seed": seed},
    }
    places: Sequence[int] | torch.Tensor = range(len(paths))
    if shuffle:
        places = torch.randperm(len(paths), generator=torch.Generator().manual_seed(mix(seed, 0)))

    def load(place: int) -> tuple[str, str, bytes]:
        path = paths[int(places[place])]
        return os.path.relpath(path, root), *_load(path, resize, max_pixels)

    def intact(done: Unfinished) -> Iterator[Loaded]:
        ahead = range(done.place, len(paths))
        loadings = progress(_map_ahead(load, ahead, workers), "image", len(ahead))
        for place, loading in zip(ahead, loadings, strict=True):
            try:
                yield Loaded(place, *loading.result())
            except ValueError as error:
                _refuse_unless(skip_damaged, str(error))
                done.damaged.append(str(error))

    with claim(output, work="writes shards", instead="choose another --output"):
        remove_leftovers(output)
        done = Unfinished(output, settings, len(paths))
        if done.damaged:
            _refuse_unless(skip_damaged, done.damaged[0])
        if done.entries:
            print(f"{output} contains {len(done.entries)} complete shards; continuing after them", file=sys.stderr)
        try:
            _write(intact(done), output, images_per_shard, max_size, done)
            if not done.entries:
                raise ValueError(f"none of the {len(paths)} images of {root} can be read: {done.damaged[0]}")
            write_index(output / INDEX_NAME, done.entries)
        except (OSError, ValueError) as error:
            if not done.entries:
                raise
            kind = OSError if isinstance(error, OSError) else ValueError
            whole = f"{len(done.entries)} shards in {output} are complete; run the same command again to continue"
            raise kind(f"{error}. {whole}") from error
        finally:
            if not done.entries or (output / INDEX_NAME).is_file():
                done.remove()
    return _summary(done.entries, done.damaged, folder.passed_over)


def _refuse_unless(skip_damaged: bool, fault: str) -> None:
    if not skip_damaged:
        raise ValueError(f"{fault}, or omit all such images with --skip-damaged")


def _digest(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:16]


def _load(path: str, resize: int, max_pixels: int) -> tuple[str, bytes]:
    """Shrink an image if it is too large, then return its file extension (without the dot) and the encoded bytes."""
    try:
        data = read_file(path)
    except OSError as error:
        raise ValueError(unreadable(path, error)) from error
    image = decode_rgb(io.BytesIO(data), path, max_pixels)
    shorter = min(image.size)
    if not 0 < resize < shorter:
        return path.rpartition(".")[2].lower(), data
    width, height = (round(side * resize / shorter) for side in image.size)
    shrunk = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(shrunk, format="JPEG", quality=JPEG_QUALITY)
    return "jpg", shrunk.getvalue()


AHEAD = 4  # images that are read in advance for each thread, with the bytes of their files


def _map_ahead(function: Callable[[Any], Result], items: Iterable[Any], workers: int) -> Iterator[Future[Result]]:
    """Map in threads, in order. Unlike an executor's ``map``, prefetch only a few items and continue after errors."""
    pool, waiting = ThreadPoolExecutor(workers), iter(items)
    ahead = deque(pool.submit(function, item) for item in islice(waiting, AHEAD * workers))
    try:
        while ahead:
            yield ahead.popleft()
            ahead.extend(pool.submit(function, item) for item in islice(waiting, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _write(images: Iterator[Loaded], output: Path, images_per_shard: int, max_size: int, done: Unfinished) -> None:
    """Write images to shards and record each shard in ``done``."""
    number, image = sum(entry["images"] for entry in done.entries), next(images, None)
    while image is not None:
        entry: dict[str, Any] = {"name": f"shard-{len(done.entries):06d}.tar", "images": 0, "bytes": 0}
        # webdataset's ShardWriter does not close its files, and exceeds the maximum size by one image.
        with atomic_open(output / entry["name"]) as handle, TarWriter(handle, encoder=False, mtime=0) as writer:
            while image is not None:
                full = entry["images"] == images_per_shard or entry["bytes"] + len(image.data) > max_size
                if full and entry["images"]:
                    break
                # A path that is not valid UTF-8 must not stop the command.
                path = image.path.encode(errors="replace").decode()
                source = json.dumps({"path": path}, ensure_ascii=False).encode()
                writer.write({"__key__": f"{number:09d}", image.extension: image.data, "json": source})
                entry["images"] += 1
                entry["bytes"] += len(image.data)
                number, image = number + 1, next(images, None)
        done.add(entry, None if image is None else image.place)


def make_index(
    patterns: Sequence[str], output: str | os.PathLike, *, workers: int = 1, allow_pipe: bool = False
) -> Summary:
    """Count the images in existing shards and write their index to ``output``.

    Shards that cannot be counted are reported together, up to `MAX_FAULTS`. In this case, no index is written.

    Args:
        patterns: paths, URLs or ``pipe:`` commands, optionally with brace expansion, such as ``part-{000..099}.tar``.
        output: path of the JSON file. Shards in the same folder or below it are listed with relative paths.
        workers: number of threads, each of which reads one shard at a time.
        allow_pipe: whether commands are allowed, which run in a shell.

    Raises:
        FileNotFoundError: shards do not exist.
        FileExistsError: ``output`` already exists.
        ValueError: shards are damaged, cannot be read or contain no images, or a pattern cannot be expanded.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} already exists; choose another --output, or delete it")
    shards = [shard for pattern in patterns for shard in braceexpand(pattern)]
    base = output.parent.resolve()

    def count(shard: str) -> dict[str, Any]:
        sizes = list(image_sizes(shard, allow_pipe=allow_pipe))
        if not sizes:
            raise ValueError(f"{shard} contains no images: no member has an image file name")
        name = shard
        if not is_url(shard):
            path = Path(shard).resolve()
            name = str(path.relative_to(base) if path.is_relative_to(base) else path)
        return {"name": name, "images": len(sizes), "bytes": sum(sizes)}

    entries: list[dict[str, Any]] = []
    faults: list[Exception] = []
    for counting in progress(_map_ahead(count, shards, workers), "shard", len(shards)):
        try:
            entries.append(counting.result())
        except (FileNotFoundError, ValueError) as error:
            faults.append(error)
        if len(faults) == MAX_FAULTS:
            break
    if len(faults) == 1:
        raise faults[0]
    if faults:
        kind = FileNotFoundError if all(isinstance(fault, FileNotFoundError) for fault in faults) else ValueError
        few = "; ".join(map(str, faults[:3])) + ("; ..." if len(faults) > 3 else "")
        tried = len(entries) + len(faults)
        raise kind(f"{few}: {len(faults)} of the first {tried} shards cannot be counted; no index was written")
    write_index(output, entries)
    return _summary(entries)


def _summary(entries: Sequence[Mapping[str, Any]], damaged: Sequence[str] = (), passed_over: int = 0) -> Summary:
    images, size = (sum(entry[name] for entry in entries) for name in ("images", "bytes"))
    return Summary(len(entries), images, size, damaged, passed_over)


def main(args: argparse.Namespace) -> None:
    """Run ``mocodet shards``."""
    options = dict(vars(args))
    root, patterns, output, allow_pipe = (options.pop(name) for name in ("root", "index", "output", "allow_pipe"))
    with errors_in_one_line():
        if patterns is None:
            summary, index = make_shards(root, output, **options), f"{output.rstrip('/')}/{INDEX_NAME}"
        else:
            summary, index = make_index(patterns, output, workers=args.workers, allow_pipe=allow_pipe), output
    for message in summary.damaged:
        print(f"skipped: {message}", file=sys.stderr)
    if summary.passed_over:
        print(passed_over(summary.passed_over, root), file=sys.stderr)
    left_out = f", {len(summary.damaged)} damaged images skipped" if summary.damaged else ""
    print(f"{index}: {summary.images} images in {summary.shards} shards, {summary.bytes / 1e6:.1f} MB{left_out}")
