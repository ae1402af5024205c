"""Lists of images as text, one name a line, and the files that the names stand for."""

import codecs
import os
from collections.abc import Callable
from pathlib import Path

from mocodet.common.text import repeated

from .findings import Finding, Ledger
from .image import stem_of

LABELS = frozenset({"-1", "0", "1"})  # in VOC's lists of one class: no object of it, only difficult ones, an object


def read_list(path: Path, knows: Callable[[str], bool]) -> tuple[list[str], list[Finding]]:
    """Read a list of images; return their names, each once, and what is wrong with the list.

    A line may hold a label after the name, as in VOC's lists of one class, and a name its suffix, its folder
    (``JPEGImages/a.jpg``) or blanks.

    Args:
        path: the list.
        knows: tells whether there is anything of a name, and so which of these a line means.

    Raises:
        FileNotFoundError: there is no such list.
    """
    ledger = Ledger(path)
    try:
        lines = lines_of(path.read_bytes())
    except UnicodeDecodeError as error:
        ledger.error("", f"is not text in UTF-8 ({error.reason})", "write it anew, one image name a line")
        return [], ledger.findings()
    names = []
    for line in lines:
        name, labelled = _name_in(line, knows)
        if name is None:
            ledger.error("", f"must hold one image name a line, found {line[:80]!r}", "write it anew")
            continue
        names.append(name)
        if labelled:
            ledger.count("note", name, "has a label behind its name", "the image is taken whatever its label")
    for name in repeated(names):
        ledger.count("repaired", name, "is named more than once", "taken once")
    if not lines:
        ledger.error("", "names no image: the data set is empty", "name images, one a line, or remove the list")
    return list(dict.fromkeys(names)), ledger.findings()


def decode_text(data: bytes) -> str:
    """Return the text of a file: by its byte-order mark, or as UTF-8.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def lines_of(data: bytes) -> list[str]:
    """Return the lines of a text file, see `decode_text`, that are not blank, without blanks around them."""
    return [line.strip() for line in decode_text(data).splitlines() if line.strip()]


class NamedFiles:
    """The files below a folder by their names: what stands before one of some suffixes, in either case.

    A name may have folders before it (``town/a``). Each folder is listed once, and when it is asked for.

    Args:
        root: the folder; it may be absent.
        suffixes: in lower case, dot included.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root, self.suffixes = root, suffixes
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> list[Path]:
        """Return the files of a name; there should be one."""
        parent, _, last = name.rpartition("/")
        return [self.root / parent / file for file in self._list(parent).get(last, [])]

    def names(self) -> set[str]:
        """Return the names of the files directly in the folder."""
        return set(self._list(""))

    def _list(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._listed:
            found = self._listed[parent] = {}
            for file in sorted(_files(self.root / parent)):
                if file.lower().endswith(self.suffixes):
                    found.setdefault(file.rpartition(".")[0], []).append(file)
        return self._listed[parent]


def _files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:  # a folder may hold a hundred thousand
            return [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    except (OSError, ValueError):  # what stands in a list may be no path at all
        return []


def _name_in(line: str, knows: Callable[[str], bool]) -> tuple[str | None, bool]:
    """Find the name of an image in a line of a list, and whether a label follows it; None if it has not just one."""
    words = line.split()
    labelled = len(words) > 1 and words[-1] in LABELS
    without_label = line[: -len(words[-1])].rstrip()
    for text in (line, without_label) if labelled else (line,):
        if name := _known(text, knows):
            return name, labelled and text != line
    # Paths of an image, of its XML file, of its mask.
    names = {_known(word, knows) for word in (words[:-1] if labelled else words)}
    if len(names) == 1 and (name := names.pop()):
        return name, labelled
    return (words[0], labelled) if len(words) - labelled == 1 else (None, False)


def _known(text: str, knows: Callable[[str], bool]) -> str | None:
    """Find the known name that a text means: itself, or without suffix and with fewer and fewer of its folders."""
    if knows(text):
        return text
    path = text.replace("\\", "/")
    name = path[:-4] if path.lower().endswith(".xml") else stem_of(path)
    while name:
        if knows(name):
            return name
        name = name.partition("/")[2]
    return None
