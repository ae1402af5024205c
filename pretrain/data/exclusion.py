"""Excluded files of a folder, and the numbering of all other files in a resumed run.

A new run omits the files in ``DATA.EXCLUDE``. A resumed run keeps its original numbering: a file that was added to the
list since then keeps its index, whether or not it still exists, but is always replaced by another image. The same
applies to files that the run could not read and that have been removed.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mocodet.common.files import write_json
from mocodet.common.text import first_few

EXCLUDED = "excluded.json"  # in OUTPUT_DIR: files that were excluded when the run began
SKIPPED_FILES = "skipped.json"  # in OUTPUT_DIR: files that the run could not read

# Beginning of a JSON list, or of an object with line breaks. A path may also begin with a bracket.
LIKE_JSON = re.compile(r"""\s*(?:\[\s*[{"\]]|\{\s*[\r\n])""")


@dataclass(frozen=True)
class Exclusion:
    """Excluded files, with names relative to the folder.

    Attributes:
        out: files that have no index.
        since: files that keep their indices but are no longer loaded.
        unread: files that keep their indices but could not be read at some point.
    """

    out: frozenset[str] = frozenset()
    since: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()

    def number(self, found: Iterable[str]) -> list[str]:
        """Return all files that have an index, sorted by name: those in ``found`` and those found earlier."""
        return sorted((self.since | self.unread).union(found) - self.out)

    def places(self, names: Iterable[str]) -> frozenset[int]:
        """Return the indices in ``names`` of the files that are not loaded."""
        return frozenset(place for place, name in enumerate(names) if name in self.since) if self.since else frozenset()


EVERYTHING = Exclusion()  # excludes nothing


def read_exclusion(listed: str, root: str, output: str | os.PathLike, *, resuming: bool) -> Exclusion:
    """Read the excluded files of a run.

    Args:
        listed: value of ``DATA.EXCLUDE``, the path of a list (see `read_names`) or ``""``.
        root: the folder of images.
        output: ``OUTPUT_DIR`` of the run.
        resuming: whether a run is resumed in ``output``.

    Raises:
        FileNotFoundError, ValueError: see `read_names`.
    """
    names = frozenset(read_names(listed, root)) if listed else frozenset()
    if not resuming:
        return Exclusion(names)
    out, unread = (
        frozenset(read_names(path, root)) if (path := Path(output, file)).is_file() else frozenset()
        for file in (EXCLUDED, SKIPPED_FILES)
    )
    return Exclusion(out, names - out, unread - names)


def keep_exclusion(exclusion: Exclusion, output: str | os.PathLike) -> None:
    """Save the exclusion that a new run starts with, so that it can be resumed. Remove that of an earlier run."""
    if exclusion.out:
        write_json(Path(output, EXCLUDED), [{"file": name} for name in sorted(exclusion.out)])
    else:
        Path(output, EXCLUDED).unlink(missing_ok=True)


def read_names(path: str | os.PathLike, root: str | os.PathLike) -> list[str]:
    """Read a list of files: either one path per line, or objects with ``"file"``, one per line or in a JSON list.

    Args:
        path: path of the list, which may be a file like `SKIPPED_FILES`.
        root: folder that the listed paths are relative to. Absolute paths are also allowed.

    Returns:
        paths relative to ``root``, such as ``a/b.jpg``.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: the file is not a list of files, or contains a file outside of ``root``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"DATA.EXCLUDE {path} is not a file; create one with mocodet prepare-data images --output"
        )
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
        names = [os.path.normpath(name) for name in _parse(text)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a list of files ({error}); expected one path per line, or the output of prepare-data images"
        ) from error
    folder = os.path.abspath(root)  # noqa: PTH100 (does not resolve links)
    inside = [os.path.relpath(name, folder) if name.startswith(f"{folder}{os.sep}") else name for name in names]
    if outside := [name for name in inside if name.startswith((os.sep, os.pardir + os.sep))]:
        raise ValueError(
            f"{path} lists {len(outside)} files outside of {root}: {first_few(outside)}; expected absolute paths or"
            f" paths relative to {root}"
        )
    return inside


def _parse(text: str) -> Sequence[str]:
    try:
        content = json.loads(text)
    except ValueError:
        if LIKE_JSON.match(text):
            raise
        content = None  # one file per line
    if isinstance(content, dict) and "skipped" in content:
        content = content["skipped"]
    if isinstance(content, list):
        return [entry["file"] for entry in content]
    lines = [line for line in text.split("\n") if line.strip("\r ")]
    return [json.loads(line)["file"] if line.startswith("{") else line.rstrip("\r") for line in lines]
