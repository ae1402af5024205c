"""The command ``mocodet shards``: write WebDataset shards from a folder of images, or the index of shards."""

import argparse
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
from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.image import decode_rgb, read_file, unreadable
from mocodet.common.progress import progress

from .folders import ImageFolder
from .shards import image_sizes, is_url, write_index
from .views import mix

INDEX_NAME = "index.json"
MAX_FAULTS = 100  # shards that cannot be counted, after which no more are tried
JPEG_QUALITY = 95

Result = TypeVar("Result")


class Summary(NamedTuple):
    """What was written.

    Attributes:
        shards: how many.
        images: how many, in all of them.
        bytes: of the images' files.
        damaged: messages about the images that were left out.
        passed_over: files of the folder that have no image's extension.
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

    If anything fails, what was written is removed.

    Args:
        root: searched to any depth, as `ImageFolder` does.
        output: made if need be; must be empty.
        images_per_shard: at most so many; at least 1.
        max_size: bytes of images in a shard, at most; a larger image gets a shard of its own.
        resize: images whose shorter side is longer than this, in pixels, are shrunk to it and stored as JPEG, the
            others as they are; 0 leaves all as they are.
        shuffle: write in a random order, else in the order of the paths.
        seed: of that order.
        skip_damaged: leave images that cannot be decoded out instead of raising.
        max_pixels: how large an image may be; 0: of any size.
        workers: threads that read, decode and shrink.

    Raises:
        FileNotFoundError: ``root`` is no folder, or holds no image.
        FileExistsError: ``output`` is a file, or not empty.
        ValueError: an image is damaged, or all are, with ``skip_damaged``.
    """
    root, output = Path(root), Path(output)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give one that holds images")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there and is not an empty folder; give another --output, or empty it")
    folder = ImageFolder(root)
    paths, damaged = folder.paths, []
    places: Iterable[int] = range(len(paths))
    if shuffle:
        places = torch.randperm(len(paths), generator=torch.Generator().manual_seed(mix(seed, 0)))

    def load(place: int) -> tuple[str, str, bytes]:
        path = paths[int(place)]
        return os.path.relpath(path, root), *_load(path, resize, max_pixels)

    def intact() -> Iterator[tuple[str, str, bytes]]:
        for loading in progress(_map_ahead(load, places, workers), "image", len(paths)):
            try:
                yield loading.result()
            except ValueError as error:
                if not skip_damaged:
                    raise ValueError(f"{error}, or leave out all such images with --skip-damaged") from error
                damaged.append(str(error))

    made_folder = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        entries = _write(intact(), output, images_per_shard, max_size)
        if not entries:
            raise ValueError(f"none of the {len(paths)} images of {root} can be read; the first: {damaged[0]}")
        write_index(output / INDEX_NAME, entries)
    except BaseException:
        for shard in output.glob("shard-*.tar"):
            shard.unlink()
        if made_folder:
            output.rmdir()
        raise
    return _summary(entries, damaged, folder.passed_over)


def _load(path: str, resize: int, max_pixels: int) -> tuple[str, bytes]:
    """Return an image's extension, without the dot, and its file's bytes, shrunk if it is too large."""
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
    """Map in threads, in order; unlike an executor's own map, a few items ahead, and on after an error."""
    pool, waiting = ThreadPoolExecutor(workers), iter(items)
    ahead = deque(pool.submit(function, item) for item in islice(waiting, 16 * workers))
    try:
        while ahead:
            yield ahead.popleft()
            ahead.extend(pool.submit(function, item) for item in islice(waiting, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _write(
    images: Iterator[tuple[str, str, bytes]], output: Path, images_per_shard: int, max_size: int
) -> list[dict[str, Any]]:
    """Write (path, extension, bytes) of images to shards; return the entries of the index."""
    entries: list[dict[str, Any]] = []
    number, image = 0, next(images, None)
    while image is not None:
        entry: dict[str, Any] = {"name": f"shard-{len(entries):06d}.tar", "images": 0, "bytes": 0}
        # webdataset's ShardWriter does not close its files, and overruns the size by an image.
        with (output / entry["name"]).open("xb") as handle, TarWriter(handle, encoder=False, mtime=0) as writer:
            while image is not None:
                path, extension, data = image
                full = entry["images"] == images_per_shard or entry["bytes"] + len(data) > max_size
                if full and entry["images"]:
                    break
                # A path that is not UTF-8 must not stop the rest.
                source = json.dumps({"path": path.encode(errors="replace").decode()}, ensure_ascii=False).encode()
                writer.write({"__key__": f"{number:09d}", extension: data, "json": source})
                entry["images"] += 1
                entry["bytes"] += len(data)
                number, image = number + 1, next(images, None)
        entries.append(entry)
    return entries


def make_index(
    patterns: Sequence[str], output: str | os.PathLike, *, workers: int = 1, allow_pipe: bool = False
) -> Summary:
    """Count the images of shards that are there already and write the index ``output``.

    Shards that cannot be counted are reported together, up to `MAX_FAULTS`, and nothing is written then.

    Args:
        patterns: paths, URLs or ``pipe:`` commands, with braces: ``part-{000..099}.tar``.
        output: the JSON file. Shards in or below its folder are named relative to it.
        workers: threads, each reading a shard.
        allow_pipe: whether commands may run; they do so in a shell.

    Raises:
        FileNotFoundError: shards are not there.
        FileExistsError: ``output`` is.
        ValueError: shards are damaged, cannot be read or hold no image; a pattern cannot be expanded.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} is there already; give another --output, or remove it")
    shards = [shard for pattern in patterns for shard in braceexpand(pattern)]
    base = output.parent.resolve()

    def count(shard: str) -> dict[str, Any]:
        sizes = list(image_sizes(shard, allow_pipe=allow_pipe))
        if not sizes:
            raise ValueError(f"{shard} holds no image: no member has an image's file name")
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
        raise kind(f"{few}: {len(faults)} of the first {tried} shards cannot be counted, no index is written")
    write_index(output, entries)
    return _summary(entries)


def _summary(entries: Sequence[Mapping[str, Any]], damaged: Sequence[str] = (), passed_over: int = 0) -> Summary:
    images, size = (sum(entry[name] for entry in entries) for name in ("images", "bytes"))
    return Summary(len(entries), images, size, damaged, passed_over)


def main(args: argparse.Namespace) -> None:
    """Do what ``mocodet shards`` asks for."""
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
        print(f"{summary.passed_over} files of {root} have no image's extension and were left out", file=sys.stderr)
    left_out = f", {len(summary.damaged)} damaged ones left out" if summary.damaged else ""
    print(f"{index}: {summary.images} images in {summary.shards} shards, {summary.bytes / 1e6:.1f} MB{left_out}")
