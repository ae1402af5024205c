"""The images below a folder, by ``os.scandir``: one look at each name, none at the files themselves."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mocodet.common.formats.image import image_suffixes


class Listing(NamedTuple):
    """What one folder holds, without the folders below it; hidden files count as absent.

    Attributes:
        folder: its path, relative to the one that was searched; ``""`` for that one itself.
        stamp: device, inode, times of the last change (of the entries, of anything; nanoseconds), taken before it was
            searched.
        images: names of the files whose suffix is of a format that Pillow decodes.
        others: how many other files there are.
        lasting: whether they stay the same as long as the stamp does; a link that leads nowhere today may lead to a
            folder tomorrow, and a folder without a time does not say that it changes.
    """

    folder: str
    stamp: tuple[int, ...]
    images: list[str]
    others: int
    lasting: bool = True

    def paths(self, root: str | os.PathLike) -> list[str]:
        """Return the images' paths, where ``root`` is what was searched."""
        start = str(Path(root, self.folder, "-"))[:-1]
        return [start + name for name in self.images]


def search(root: str | os.PathLike) -> Iterator[Listing]:
    """List a folder and all below it, links to folders included, hidden ones not; each once, wherever links lead.

    Raises:
        OSError: a folder cannot be searched.
    """
    suffixes = image_suffixes()
    entered = set()  # a link may lead back to a folder that was searched already
    ahead = [""]
    while ahead:
        folder = ahead.pop()
        stamp = stamp_of(Path(root, folder))
        if stamp[:2] in entered:
            continue
        entered.add(stamp[:2])
        images, below, others, lasting = [], [], 0, all(stamp[2:])
        with os.scandir(Path(root, folder)) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if _is_folder(entry):
                    below.append(name)
                    continue
                lasting &= not entry.is_symlink() or _is_file(entry)
                if name.lower().endswith(suffixes):
                    images.append(name)
                else:
                    others += 1
        images.sort()
        ahead += [f"{folder}/{name}" if folder else name for name in sorted(below, reverse=True)]
        yield Listing(folder, stamp, images, others, lasting)


def stamp_of(folder: Path) -> tuple[int, ...]:
    """Return what changes when an entry of a folder comes, goes or is renamed, or another folder takes its place."""
    status = folder.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to what may not be seen
        return False
