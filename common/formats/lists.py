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
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        lines = [line.strip() for line in data.decode("utf-16" if wide else "utf-8-sig").splitlines() if line.strip()]
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


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the files directly in a folder that end in one of ``suffixes``, in either case, by what stands before it.

    No folder, no files.
    """
    found: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:  # a folder may hold a hundred thousand
            files = sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    except (OSError, ValueError):  # a name in a list may be no path at all
        return found
    for file in files:
        if file.lower().endswith(suffixes):
            found.setdefault(file.rpartition(".")[0], []).append(file)
    return found


def last_part(name: str) -> str:
    """Return a name without the folders before it."""
    return name.rpartition("/")[2]


def _name_in(line: str, knows: Callable[[str], bool]) -> tuple[str | None, bool]:
    """Find the name of an image in a line of a list, and whether a label follows it."""
    words = line.split()
    labelled = len(words) > 1 and words[-1] in LABELS
    without_label = line[: -len(words[-1])].rstrip()
    for text in (line, without_label, words[0]) if labelled else (line, words[0]):
        for name in (text, _bare(text)):
            if name and knows(name):
                return name, labelled and text != line
    if labelled and len(words) == 2:
        return words[0], True
    return (line, False) if len(words) == 1 else (None, False)


def _bare(text: str) -> str:
    """Return a path's last part without its suffix."""
    last = last_part(text.replace("\\", "/"))
    return last[:-4] if last.lower().endswith(".xml") else stem_of(last)
