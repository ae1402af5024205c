"""The command ``mocodet shards``: write WebDataset shards from a folder of images, or the index of shards."""

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

from .folders import ImageFolder
from .shards import image_sizes, is_url, write_index
from .unfinished import Unfinished
from .views import mix

INDEX_NAME = "index.json"
MAX_FAULTS = 100  # after this many shards that cannot be counted, no more are tried
JPEG_QUALITY = 95

Result = TypeVar("Result")


class Loaded(NamedTuple):
    """An image that can be decoded, ready to be written.

    Attributes:
        place: its number in the order of writing, in which damaged images count too.
        path: relative to the folder of images.
        extension: without the dot.
        data: the bytes of its file.
    """

    place: int
    path: str
    extension: str
    data: bytes


class Summary(NamedTuple):
    """A summary of what was written.

    Attributes:
        shards: number of shards.
        images: number of images in all shards.
        bytes: size of the image files.
        damaged: messages about the images that were left out.
        passed_over: number of files in the folder that are not images, by their extension.
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
    """Write the images below ``root`` to shards in the folder ``output``, and their index.

    If it is interrupted, the complete shards remain. The same call continues after them and writes the same bytes.

    Args:
        root: searched to any depth, as by `ImageFolder`.
        output: created if necessary; must be empty, or hold the shards of an interrupted call.
        images_per_shard: largest number of images in a shard; at least 1.
        max_size: largest sum of image bytes in a shard; a larger image gets its own shard.
        resize: images whose shorter side is longer than this, in pixels, are shrunk to it and stored as JPEG, the
            others unchanged; 0 leaves all unchanged.
        shuffle: write in a random order instead of the order of the paths.
        seed: seed of that order.
        skip_damaged: leave out images that cannot be decoded instead of raising.
        max_pixels: largest number of pixels of an image; 0: unlimited.
        workers: threads that read, decode and shrink.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or holds no images.
        FileExistsError: ``output`` is a file, or holds something else.
        BlockingIOError: another process writes there.
        ValueError: an image is damaged, or with ``skip_damaged`` all are; see also `Unfinished`.
    """
    root, output = Path(root), Path(output)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give one that holds images")
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} exists and is not an empty folder; give another --output, or empty it")
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

    with claim(output, work="writes shards", instead="give another --output"):
        remove_leftovers(output)
        done = Unfinished(output, settings, len(paths))
        if done.damaged:
            _refuse_unless(skip_damaged, done.damaged[0])
        if done.entries:
            print(f"{output} has {len(done.entries)} complete shards; continuing after them", file=sys.stderr)
        try:
            _write(intact(done), output, images_per_shard, max_size, done)
            if not done.entries:
                raise ValueError(f"none of the {len(paths)} images of {root} can be read; the first: {done.damaged[0]}")
            write_index(output / INDEX_NAME, done.entries)
        except (OSError, ValueError) as error:
            if not done.entries:
                raise
            kind = OSError if isinstance(error, OSError) else ValueError
            whole = f"{len(done.entries)} shards in {output} are complete; the same command continues after them"
            raise kind(f"{error}. {whole}") from error
        finally:
            if not done.entries or (output / INDEX_NAME).is_file():
                done.remove()
    return _summary(done.entries, done.damaged, folder.passed_over)


def _refuse_unless(skip_damaged: bool, fault: str) -> None:
    if not skip_damaged:
        raise ValueError(f"{fault}, or leave out all such images with --skip-damaged")


def _digest(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:16]


def _load(path: str, resize: int, max_pixels: int) -> tuple[str, bytes]:
    """Return an image's extension, without the dot, and its file's bytes, after shrinking it if it is too large."""
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


def _map_ahead(function: Callable[[Any], Result], items: Iterable[Any], workers: int) -> Iterator[Future[Result]]:
    """Map in threads, in order. Unlike an executor's own map, work only a few items ahead and continue after errors."""
    pool, waiting = ThreadPoolExecutor(workers), iter(items)
    ahead = deque(pool.submit(function, item) for item in islice(waiting, 16 * workers))
    try:
        while ahead:
            yield ahead.popleft()
            ahead.extend(pool.submit(function, item) for item in islice(waiting, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _write(images: Iterator[Loaded], output: Path, images_per_shard: int, max_size: int, done: Unfinished) -> None:
    """Write images to shards, and note each shard in ``done``."""
    number, image = sum(entry["images"] for entry in done.entries), next(images, None)
    while image is not None:
        entry: dict[str, Any] = {"name": f"shard-{len(done.entries):06d}.tar", "images": 0, "bytes": 0}
        # webdataset's ShardWriter does not close its files, and exceeds the size by an image.
        with atomic_open(output / entry["name"]) as handle, TarWriter(handle, encoder=False, mtime=0) as writer:
            while image is not None:
                full = entry["images"] == images_per_shard or entry["bytes"] + len(image.data) > max_size
                if full and entry["images"]:
                    break
                # A path that is not UTF-8 must not stop the rest.
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
    """Count the images of existing shards and write the index ``output``.

    Shards that cannot be counted are reported together, up to `MAX_FAULTS`; nothing is written then.

    Args:
        patterns: paths, URLs or ``pipe:`` commands, with braces: ``part-{000..099}.tar``.
        output: the JSON file. Shards in or below its folder are named relative to it.
        workers: threads, each reading a shard.
        allow_pipe: whether commands may run; they do so in a shell.

    Raises:
        FileNotFoundError: shards do not exist.
        FileExistsError: ``output`` exists.
        ValueError: shards are damaged, cannot be read or hold no images; or a pattern cannot be expanded.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} already exists; give another --output, or remove it")
    shards = [shard for pattern in patterns for shard in braceexpand(pattern)]
    base = output.parent.resolve()

    def count(shard: str) -> dict[str, Any]:
        sizes = list(image_sizes(shard, allow_pipe=allow_pipe))
        if not sizes:
            raise ValueError(f"{shard} holds no images: no member has an image's file name")
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
        print(f"left out: {message}", file=sys.stderr)
    if summary.passed_over:
        print(f"{summary.passed_over} files of {root} are not images (by extension); ignored", file=sys.stderr)
    left_out = f", {len(summary.damaged)} damaged images left out" if summary.damaged else ""
    print(f"{index}: {summary.images} images in {summary.shards} shards, {summary.bytes / 1e6:.1f} MB{left_out}")
