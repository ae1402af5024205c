"""Lists the images below a folder with ``os.scandir``, which reads only names and does not access the files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mocodet.common.formats.image import image_suffixes


class Listing(NamedTuple):
    """The contents of a single folder, excluding its subfolders and hidden files.

    Attributes:
        folder: path relative to the searched folder, which is ``""`` for the searched folder itself.
        stamp: device, inode, and times of the last change (mtime and ctime in nanoseconds), read before the search.
        images: names of the files with the extension of a format supported by Pillow.
        others: number of other files.
        lasting: whether the listing stays valid as long as the stamp does not change. This is not the case if there is
            a dangling link, which may later point to a folder, or if the file system does not store times.
    """

    folder: str
    stamp: tuple[int, ...]
    images: list[str]
    others: int
    lasting: bool = True

    def paths(self, root: str | os.PathLike) -> list[str]:
        """Return the paths of the images below ``root``, the searched folder."""
        start = str(Path(root, self.folder, "-"))[:-1]
        return [start + name for name in self.images]


def search(root: str | os.PathLike) -> Iterator[Listing]:
    """List a folder and all of its subfolders once each, following links to folders and skipping hidden folders.

    Raises:
        OSError: a folder cannot be searched.
    """
    suffixes = image_suffixes()
    entered = set()  # a link may point back to a folder that has already been searched
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
    """Return a stamp that changes if an entry is added, removed or renamed, or if the folder is replaced."""
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
    except OSError:  # a link to a target without read permission
        return False
