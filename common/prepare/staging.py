"""The place where the files of an archive wait until all of them are complete."""

import errno
import shutil
from contextlib import suppress
from functools import cache, partial
from pathlib import Path, PurePosixPath

WAITING = ".unpacking"


class Staging:
    """The files of one archive for ``root``, which wait beside their place until all are complete.

    A folder below ``root`` may be a link to another disk, or a mount point. Its files wait in that folder, so that they
    need space on each disk only once and are just renamed at the end. Waiting files belong to one state of the
    archive's file; those of another state are removed.
    """

    def __init__(self, root: Path, archive: Path) -> None:
        """Prepare to stage the files of ``archive`` for ``root``, which is made if it does not exist."""
        state = archive.stat()
        self._root = root
        self._waiting = PurePosixPath(WAITING, archive.name, f"{state.st_size}-{state.st_mtime_ns}")
        self._disks: set[PurePosixPath] = set()
        self._disk_of = cache(partial(disk_of, root))
        root.mkdir(parents=True, exist_ok=True)

    def path(self, place: str) -> Path:
        """Return the waiting path of the file for ``place``, a path relative to the root."""
        disk = self._disk_of(PurePosixPath(place).parent)
        waiting = self._root / disk / self._waiting
        if disk not in self._disks:
            self._disks.add(disk)
            for other in waiting.parent.glob("*"):
                if other != waiting:
                    shutil.rmtree(other)
        return waiting / PurePosixPath(place).relative_to(disk)

    def move_into_place(self) -> None:
        """Move all waiting files to their places, filling folders and replacing existing files."""
        for disk in self._disks:
            move_tree(self._root / disk / self._waiting, self._root / disk)
        self.discard()

    def discard(self) -> None:
        """Remove the waiting files."""
        for disk in self._disks:
            waiting = self._root / disk / self._waiting.parent
            shutil.rmtree(waiting, ignore_errors=True)
            with suppress(OSError):  # the files of another archive wait there too
                waiting.parent.rmdir()
        self._disks.clear()


def disk_of(root: Path, place: str | PurePosixPath) -> PurePosixPath:
    """Return the highest folder at or above ``place``, relative to ``root``, on the same disk as ``place``.

    That is ``.`` unless a link or a mount point on the way leads to another disk.

    Raises:
        FileNotFoundError: a link on the way leads nowhere.
    """
    disk, place = PurePosixPath(), PurePosixPath(place)
    for folder in (*reversed(place.parents), place):
        path = root / folder
        if path.is_symlink() and not path.exists():
            what = f"the link leads to {path.readlink()}, which does not exist; make that folder, or remove the link"
            raise FileNotFoundError(errno.ENOENT, what, str(path))
        if path.is_dir() and device_of(path) != device_of(root / disk):
            disk = folder
    return disk


def device_of(path: Path) -> int:
    """Return the number of the disk of ``path``, which must exist."""
    return path.stat().st_dev


def move_tree(source: Path, target: Path) -> None:
    """Move the content of folder ``source`` into ``target``, filling folders and replacing existing files."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            move_tree(entry, place)
        else:
            entry.replace(place)
    source.rmdir()
