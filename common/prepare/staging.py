"""Where the files of an archive wait until all of them are there."""

import errno
import shutil
from contextlib import suppress
from functools import cache, partial
from pathlib import Path, PurePosixPath

WAITING = ".unpacking"


class Staging:
    """The files of one archive that are to come below ``root``, waiting beside their place until all are there.

    A folder below ``root`` may be a link to another disk, or one may be mounted there. Files for it wait in it, so that
    on each disk they need room once, and are only renamed in the end. What waits belongs to one state of the archive's
    file: what another one has left there is removed.
    """

    def __init__(self, root: Path, archive: Path) -> None:
        """Prepare to stage the files of ``archive`` for ``root``, which is made if it is not there."""
        state = archive.stat()
        self._root = root
        self._waiting = PurePosixPath(WAITING, archive.name, f"{state.st_size}-{state.st_mtime_ns}")
        self._disks: set[PurePosixPath] = set()
        self._disk_of = cache(partial(disk_of, root))
        root.mkdir(parents=True, exist_ok=True)

    def path(self, place: str) -> Path:
        """Return where the file that is to come to ``place``, relative to the root, waits."""
        disk = self._disk_of(PurePosixPath(place).parent)
        waiting = self._root / disk / self._waiting
        if disk not in self._disks:
            self._disks.add(disk)
            for other in waiting.parent.glob("*"):
                if other != waiting:
                    shutil.rmtree(other)
        return waiting / PurePosixPath(place).relative_to(disk)

    def move_into_place(self) -> None:
        """Move all that waits to where it belongs, filling folders and replacing files that are there."""
        for disk in self._disks:
            move_tree(self._root / disk / self._waiting, self._root / disk)
        self.discard()

    def discard(self) -> None:
        """Remove what waits."""
        for disk in self._disks:
            waiting = self._root / disk / self._waiting.parent
            shutil.rmtree(waiting, ignore_errors=True)
            with suppress(OSError):  # the files of another archive wait there too
                waiting.parent.rmdir()
        self._disks.clear()


def disk_of(root: Path, place: str | PurePosixPath) -> PurePosixPath:
    """Return the highest folder at or above ``place``, relative to ``root``, from which on the disk does not change.

    That is ``.`` unless a link or a mount point on the way leads to another disk.

    Raises:
        FileNotFoundError: a link on the way leads nowhere.
    """
    disk, place = PurePosixPath(), PurePosixPath(place)
    for folder in (*reversed(place.parents), place):
        path = root / folder
        if path.is_symlink() and not path.exists():
            what = f"the link leads to {path.readlink()}, which is not there; make that folder, or remove the link"
            raise FileNotFoundError(errno.ENOENT, what, str(path))
        if path.is_dir() and device_of(path) != device_of(root / disk):
            disk = folder
    return disk


def device_of(path: Path) -> int:
    """Return the number of the disk that ``path``, which must be there, is on."""
    return path.stat().st_dev


def move_tree(source: Path, target: Path) -> None:
    """Move the content of folder ``source`` into ``target``, filling folders and replacing files that are there."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            move_tree(entry, place)
        else:
            entry.replace(place)
    source.rmdir()
