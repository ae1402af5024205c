"""``mocodet benchmark startup``: measures help texts, imports, and listing a folder of images."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from mocodet.common.benchmark.alternate import CPU, alternate
from mocodet.common.benchmark.report import Row, rows_of

from ..data.folders import ImageFolder
from ..data.listing_cache import STEP

PYTHON, TORCHVISION = "python, nothing imported", "import torch, torchvision"
MAKE_DATASET, SCAN = "torchvision's make_dataset", "os.scandir alone"
FILES_IN_FOLDER = 1000


def python(*arguments: str) -> Callable[[], object]:
    """Return a function that runs Python with ``arguments`` in a new process."""
    command = [sys.executable, "-W", "ignore", *arguments]
    return partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)


def processes(pairs: int) -> Iterator[list[Row]]:
    """Yield the rows for help texts and imports, measured in CPU time of the processes."""
    compared: dict[str, dict[str, Callable[[], object]]] = {
        "help": {PYTHON: python("-c", "pass"), "mocodet train --help": python("-m", "mocodet", "train", "--help")},
        "import": {
            TORCHVISION: python("-c", "import torch, torchvision"),
            "import mocodet.pretrain": python("-c", "import mocodet.pretrain"),
            "import mocodet.pretrain.run": python("-c", "import mocodet.pretrain.run"),
            "import mocodet.detection.training.run": python("-c", "import mocodet.detection.training.run"),
        },
    }
    for name, contestants in compared.items():
        reference = next(iter(contestants))
        yield rows_of(name, alternate(contestants, pairs, CPU), reference=reference, clock=CPU)


def make_files(root: Path, count: int) -> None:
    """Create ``count`` empty image files, a thousand per folder."""
    for number in range(count):
        folder = root / f"{number // FILES_IN_FOLDER:05d}"
        if number % FILES_IN_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:09d}.jpg").touch()


def by_torchvision(root: Path) -> int:
    """List the images in the same way as torchvision's ``ImageFolder`` and return their number."""
    classes = {entry.name: number for number, entry in enumerate(sorted(os.scandir(root), key=lambda e: e.name))}
    return len(make_dataset(str(root), classes, IMG_EXTENSIONS))


def by_scandir(root: Path) -> int:
    """Only read all file names from the system and return their number."""
    folders, files = [str(root)], 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    files += 1
    return files


def by_mocodet(root: Path, cache: Path) -> int:
    """List the images as for ``DATA.ROOT``, with listings cached in ``cache``, and return their number."""
    with mock.patch.dict(os.environ, FVCORE_CACHE=str(cache)):
        return len(ImageFolder(root))


def by_mocodet_at_first(root: Path, caches: Path) -> int:
    """List the images as for ``DATA.ROOT`` with an empty cache in a new folder below ``caches``."""
    return by_mocodet(root, Path(tempfile.mkdtemp(dir=caches)))


def listing(count: int, pairs: int) -> list[Row]:
    """Return the rows for listing ``count`` files.

    Raises:
        ValueError: the implementations find different numbers of files.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as caches:
        root = Path(folder)
        make_files(root, count)
        time.sleep(1.1 * STEP / 1e9)  # listings of folders that have just changed are not cached
        contestants: dict[str, Callable[[], int]] = {
            MAKE_DATASET: partial(by_torchvision, root),
            "mocodet, the first time": partial(by_mocodet_at_first, root, Path(caches)),
            "mocodet, again": partial(by_mocodet, root, Path(caches, "kept")),
            SCAN: partial(by_scandir, root),
        }
        found = {who: listed() for who, listed in contestants.items()}
        if set(found.values()) != {count}:
            counts = ", ".join(f"{who} found {n}" for who, n in found.items())
            raise ValueError(f"expected {count} files, but {counts}")
        seconds = alternate(contestants, pairs, CPU, warm_up=0)
    return rows_of(
        f"listing {count:,} files",
        seconds,
        reference=MAKE_DATASET,
        clock=CPU,
        limit=SCAN,
        unbounded=["mocodet, again"],
        settings={"files": count},
    )


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows for help texts, imports and listings."""
    yield from processes(args.pairs)
    yield listing(args.files, args.pairs)
