"""Lists of images as text, one name per line, and the files of these names."""

import codecs
import os
from collections.abc import Callable
from pathlib import Path

from mocodet.common.text import repeated

from .findings import Finding, Ledger
from .image import stem_of

# In VOC's lists of one class: no object of the class, only difficult ones, an object.
LABELS = frozenset({"-1", "0", "1"})


def read_list(path: Path, knows: Callable[[str], bool]) -> tuple[list[str], list[Finding]]:
    """Read a list of images; return their names, each once, and the findings.

    A line may have a label after the name, as in VOC's lists of one class. A name may have a suffix, a folder
    (``JPEGImages/a.jpg``) or blanks.

    Args:
        path: the list.
        knows: tells whether a name exists, and so which of the possible names a line means.

    Raises:
        FileNotFoundError: there is no such list.
    """
    ledger = Ledger(path)
    try:
        lines = lines_of(path.read_bytes())
    except UnicodeDecodeError as error:
        ledger.error("", f"is not text in UTF-8 ({error.reason})", "rewrite it, one image name per line")
        return [], ledger.findings()
    names = []
    for line in lines:
        name, labelled = _name_in(line, knows)
        if name is None:
            ledger.error("", f"must hold one image name per line, found {line[:80]!r}", "rewrite it")
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
    """Decode the text of a file, by its byte-order mark or as UTF-8.

    Raises:
        UnicodeDecodeError: neither fits.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def lines_of(data: bytes) -> list[str]:
    """Return the lines of a text file that are not blank, stripped; see `decode_text`."""
    return [line.strip() for line in decode_text(data).splitlines() if line.strip()]


class NamedFiles:
    """The files below a folder by their names without suffix; suffixes match in either case.

    A name may have folders before it (``town/a``). Each folder is listed once, on first use.

    Args:
        root: the folder; it may be absent.
        suffixes: suffixes in lower case, with dot.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root, self.suffixes = root, suffixes
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> list[Path]:
        """Return the files with a name; there should be one."""
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
        with os.scandir(folder) as entries:  # a folder may hold a hundred thousand files
            return [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    except (OSError, ValueError):  # an entry of a list may be an impossible path
        return []


def _name_in(line: str, knows: Callable[[str], bool]) -> tuple[str | None, bool]:
    """Find the name of an image in a line of a list, and whether a label follows; None unless there is just one."""
    words = line.split()
    labelled = len(words) > 1 and words[-1] in LABELS
    without_label = line[: -len(words[-1])].rstrip()
    for text in (line, without_label) if labelled else (line,):
        if name := _known(text, knows):
            return name, labelled and text != line
    # The path may be that of an image, of its XML file or of its mask.
    names = {_known(word, knows) for word in (words[:-1] if labelled else words)}
    if len(names) == 1 and (name := names.pop()):
        return name, labelled
    return (words[0], labelled) if len(words) - labelled == 1 else (None, False)


def _known(text: str, knows: Callable[[str], bool]) -> str | None:
    """Find the known name that a text means: the text itself, or without suffix and with ever fewer of its folders."""
    if knows(text):
        return text
    path = text.replace("\\", "/")
    name = path[:-4] if path.lower().endswith(".xml") else stem_of(path)
    while name:
        if knows(name):
            return name
        name = name.partition("/")[2]
    return None
