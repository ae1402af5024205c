"""Finds the file that a file name means although it is written differently."""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from pathlib import Path, PurePosixPath
from unicodedata import normalize
from urllib.parse import unquote

from .image import stem_of
from .lists import path_is


class NearFiles:
    """Finds the images that wrong file names in a data set may mean.

    Args:
        folder: the folder to which file names are relative.
        listed: paths that the data set lists; a wrong file name does not mean any of them.
    """

    def __init__(self, folder: Path, listed: Container[Path] = ()):
        self.folder, self.listed = folder, listed
        self._contents: dict[Path, Mapping[str, list[str]]] = {}  # for each folder, its file names by `_key`

    def find(self, file_name: str) -> Path | None:
        """Return the image that a file name means, or None if no image fits.

        The name may differ from that of the image in leading folders, backslashes, URL encoding, Unicode normalization,
        letter case or image suffix.
        """
        paths = [self.folder / tail for tail in dict.fromkeys(_tails(file_name))]
        similar = (path.parent / name for path in paths for name in self._similar(path))
        return next(
            (path for path in (*paths, *similar) if path not in self.listed and path_is(Path.is_file, path)), None
        )

    def _similar(self, path: Path) -> list[str]:
        """Return the names in the folder of ``path`` that differ from its name only in form."""
        if path.parent not in self._contents:
            self._contents[path.parent] = _names_by_key(path.parent)
        return self._contents[path.parent].get(_key(path.name), [])


def _tails(file_name: str) -> Iterator[str]:
    """Yield the forms of a relative or absolute path, each also without its leading folders."""
    for text in (file_name, unquote(file_name)):
        for form in (text, normalize("NFC", text), normalize("NFD", text)):
            parts = [part for part in PurePosixPath(form.replace("\\", "/")).parts if part != "/"]
            yield from ("/".join(parts[begin:]) for begin in range(len(parts)))


def _names_by_key(folder: Path) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    try:
        for name in sorted(path.name for path in folder.iterdir()):
            found[_key(name)].append(name)
    except (OSError, ValueError):  # the folder does not exist, or its path is invalid
        return {}
    return found


def _key(name: str) -> str:
    """Return what the different forms of a file name have in common."""
    return stem_of(normalize("NFC", name)).casefold()
