"""Text files that list images, one name per line, and lookup of the files with these names."""

import codecs
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from mocodet.common.text import repeated

from .findings import Finding, Ledger
from .image import stem_of

# Labels in VOC's per-class lists: the image has no object of the class, only difficult ones, or at least one object.
LABELS = frozenset({"-1", "0", "1"})


def read_list(path: Path, knows: Callable[[str], bool]) -> tuple[list[str], list[Finding]]:
    """Read a list of images; return the names without repetitions, and the findings.

    A line may have a label after the name, as in VOC's per-class lists. A name may include a suffix, folders
    (``JPEGImages/a.jpg``) or spaces.

    Args:
        path: the list.
        knows: returns whether an image name exists, which determines how an ambiguous line is read.

    Raises:
        FileNotFoundError: the list does not exist.
    """
    ledger = Ledger(path)
    try:
        lines = lines_of(path.read_bytes())
    except UnicodeDecodeError as error:
        ledger.error("", f"is not UTF-8 text ({error.reason})", "save it as UTF-8 with one image name per line")
        return [], ledger.findings()
    names = []
    for line in lines:
        name, labelled = _name_in(line, knows)
        if name is None:
            ledger.error("", f"must contain one image name per line; found {line[:80]!r}", "correct the line")
            continue
        names.append(name)
        if labelled:
            ledger.count("note", name, "has a label after its name", "the image is used regardless of its label")
    for name in repeated(names):
        ledger.count("repaired", name, "is listed more than once", "used only once")
    if not lines:
        ledger.error(
            "", "lists no images, so the data set is empty", "add image names, one per line, or remove the list"
        )
    return list(dict.fromkeys(names)), ledger.findings()


def decode_text(data: bytes) -> str:
    """Decode the contents of a text file according to its byte-order mark or, without one, as UTF-8.

    Raises:
        UnicodeDecodeError: the contents are not valid in that encoding.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def lines_of(data: bytes) -> list[str]:
    """Return the non-blank lines of a text file, stripped; see `decode_text`."""
    return [line.strip() for line in decode_text(data).splitlines() if line.strip()]


def path_is(what: Callable[[Path], bool], path: Path) -> bool:
    """Test a path that may be invalid, for example too long or with a null byte."""
    try:
        return what(path)
    except (OSError, ValueError):
        return False


class NamedFiles:
    """The files below a folder, indexed by name without suffix; suffixes match in upper and lower case.

    A name may include folders (``town/a``). Each folder is listed only once, on first use.

    Args:
        root: the folder, which need not exist.
        suffixes: lower-case suffixes, including the dot.
        nested: whether `names` includes the files in subfolders.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...], *, nested: bool = False) -> None:
        self.root, self.suffixes, self.nested = root, suffixes, nested
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> list[Path]:
        """Return the files with a given name; normally there is exactly one."""
        parent, _, last = name.rpartition("/")
        return [self.root / parent / file for file in self._list(parent).get(last, [])]

    def names(self) -> set[str]:
        """Return the names of the files in the root folder and, if ``nested``, in its subfolders."""
        return {f"{parent}/{last}" if parent else last for parent in self._parents for last in self._list(parent)}

    @cached_property
    def _parents(self) -> list[str]:
        return ["", *_subfolders(self.root)] if self.nested else [""]

    def _list(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._listed:
            found = self._listed[parent] = {}
            for file in sorted(_files(self.root / parent)):
                if file.lower().endswith(self.suffixes):
                    found.setdefault(file.rpartition(".")[0], []).append(file)
        return self._listed[parent]


def _files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:  # a folder may contain a hundred thousand files
            return [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    except (OSError, ValueError):  # a list may contain invalid paths
        return []


def _subfolders(root: Path) -> Iterator[str]:
    """Yield the paths of all visible folders below a folder, relative to it; each only once, despite links."""
    known: set[str] = set()
    for path, folders, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(path)
        if real in known:
            folders.clear()
            continue
        known.add(real)
        visible = [name for name in folders if not name.startswith(".")]
        folders[:] = sorted(visible, key=lambda name: (Path(path, name).is_symlink(), name))  # own names before links
        if Path(path) != root:
            yield Path(path).relative_to(root).as_posix()


def _name_in(line: str, knows: Callable[[str], bool]) -> tuple[str | None, bool]:
    """Return the image name in a line of a list, or None if it is ambiguous, and whether a label follows the name."""
    words = line.split()
    labelled = len(words) > 1 and words[-1] in LABELS
    without_label = line[: -len(words[-1])].rstrip()
    for text in (line, without_label) if labelled else (line,):
        if name := _known(text, knows):
            return name, labelled and text != line
    # The words may be the paths of an image, its XML file or its mask.
    names = {_known(word, knows) for word in (words[:-1] if labelled else words)}
    if len(names) == 1 and (name := names.pop()):
        return name, labelled
    return (words[0], labelled) if len(words) - labelled == 1 else (None, False)


def _known(text: str, knows: Callable[[str], bool]) -> str | None:
    """Return the known name that a text refers to: the text itself, or without its suffix and leading folders."""
    if knows(text):
        return text
    path = text.replace("\\", "/")
    name = path[:-4] if path.lower().endswith(".xml") else stem_of(path)
    while name:
        if knows(name):
            return name
        name = name.partition("/")[2]
    return None
