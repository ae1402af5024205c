"""Temporary storage for the files of an archive until all of them are complete."""

import errno
import shutil
from contextlib import suppress
from functools import cache, partial
from pathlib import Path, PurePosixPath

WAITING = ".unpacking"


class Staging:
    """The files of one archive for ``root``, kept next to their destination until all of them are complete.

    A folder below ``root`` may be a link to another disk, or a mount point. Its files are then staged in that folder,
    so that they need space only once on each disk and can simply be renamed at the end. Staged files belong to one
    version of the archive file; those of other versions are removed.
    """

    def __init__(self, root: Path, archive: Path) -> None:
        """Prepare to stage the files of ``archive`` for ``root``, which is created if it does not exist."""
        state = archive.stat()
        self._root = root
        self._waiting = PurePosixPath(WAITING, archive.name, f"{state.st_size}-{state.st_mtime_ns}")
        self._disks: set[PurePosixPath] = set()
        self._disk_of = cache(partial(disk_of, root))
        root.mkdir(parents=True, exist_ok=True)

    def path(self, place: str) -> Path:
        """Return the temporary path for the file whose path relative to the root will be ``place``."""
        disk = self._disk_of(PurePosixPath(place).parent)
        waiting = self._root / disk / self._waiting
        if disk not in self._disks:
            self._disks.add(disk)
            for other in waiting.parent.glob("*"):
                if other != waiting:
                    shutil.rmtree(other)
        return waiting / PurePosixPath(place).relative_to(disk)

    def move_into_place(self) -> None:
        """Move all staged files to their destinations, merging folders and replacing existing files."""
        for disk in self._disks:
            move_tree(self._root / disk / self._waiting, self._root / disk)
        self.discard()

    def discard(self) -> None:
        """Remove the staged files."""
        for disk in self._disks:
            waiting = self._root / disk / self._waiting.parent
            shutil.rmtree(waiting, ignore_errors=True)
            with suppress(OSError):  # the folder may contain staged files of another archive
                waiting.parent.rmdir()
        self._disks.clear()


def disk_of(root: Path, place: str | PurePosixPath) -> PurePosixPath:
    """Return the highest folder at or above ``place``, relative to ``root``, on the same disk as ``place``.

    The result is ``.`` unless a link or a mount point in the path leads to another disk.

    Raises:
        FileNotFoundError: the target of a link in the path does not exist.
    """
    disk, place = PurePosixPath(), PurePosixPath(place)
    for folder in (*reversed(place.parents), place):
        path = root / folder
        if path.is_symlink() and not path.exists():
            what = f"the link points to {path.readlink()}, which does not exist; create that folder, or remove the link"
            raise FileNotFoundError(errno.ENOENT, what, str(path))
        if path.is_dir() and device_of(path) != device_of(root / disk):
            disk = folder
    return disk


def device_of(path: Path) -> int:
    """Return the device number of ``path``, which must exist."""
    return path.stat().st_dev


def move_tree(source: Path, target: Path) -> None:
    """Move the contents of the folder ``source`` to ``target``, merging folders and replacing existing files."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            move_tree(entry, place)
        else:
            entry.replace(place)
    source.rmdir()
