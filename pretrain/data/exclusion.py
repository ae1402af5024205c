"""Files of a folder that are not learned from, and how the others are numbered in a run that is resumed.

A new run leaves the files of ``DATA.EXCLUDE`` out. A resumed one keeps the numbering that it began with: what has been
listed since keeps its place, whether it is still there or not, and every draw of it is replaced. So does what the run
could not read, once it is removed.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mocodet.common.files import write_json
from mocodet.common.text import first_few

EXCLUDED = "excluded.json"  # in OUTPUT_DIR: what the run there began without
SKIPPED_FILES = "skipped.json"  # in OUTPUT_DIR: what it could not read


@dataclass(frozen=True)
class Exclusion:
    """What is not learned from; names are relative to the folder.

    Attributes:
        out: files without a place.
        since: files that keep their places, and are not drawn.
        unread: files that keep their places, and could not be read at some time.
    """

    out: frozenset[str] = frozenset()
    since: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()

    def number(self, found: Iterable[str]) -> list[str]:
        """Return the files that have places, in the order of their names, of those ``found`` and those that were."""
        return sorted((self.since | self.unread).union(found) - self.out)

    def places(self, names: Iterable[str]) -> frozenset[int]:
        """Return the places in ``names`` that are not drawn."""
        return frozenset(place for place, name in enumerate(names) if name in self.since) if self.since else frozenset()


EVERYTHING = Exclusion()  # is learned from


def read_exclusion(listed: str, root: str, output: str | os.PathLike, *, resuming: bool) -> Exclusion:
    """Read what a run does not learn from.

    Args:
        listed: ``DATA.EXCLUDE``: a file, see `read_names`; ``""``: none.
        root: the folder.
        output: ``OUTPUT_DIR`` of the run.
        resuming: whether a run goes on there.

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
    """Write what a new run begins without, for it to be resumed by; remove what an earlier one may have left."""
    if exclusion.out:
        write_json(Path(output, EXCLUDED), [{"file": name} for name in sorted(exclusion.out)])
    else:
        Path(output, EXCLUDED).unlink(missing_ok=True)


def read_names(path: str | os.PathLike, root: str | os.PathLike) -> list[str]:
    """Read a list of files: one path a line, or objects with ``"file"``, one a line or in a list as in `SKIPPED_FILES`.

    Args:
        path: the list.
        root: the folder that its paths are relative to; they may be absolute as well.

    Returns:
        paths relative to ``root``, as ``a/b.jpg``.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is no list of files, or names one that is not below ``root``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"DATA.EXCLUDE {path} is no file; write one with mocodet prepare-data images --output")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
        names = [os.path.normpath(name) for name in _parse(text)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no list of files ({error}); expected a path a line, or what prepare-data images writes"
        ) from error
    folder = os.path.abspath(root)  # noqa: PTH100 (links stay as they are)
    inside = [os.path.relpath(name, folder) if name.startswith(f"{folder}{os.sep}") else name for name in names]
    if outside := [name for name in inside if name.startswith((os.sep, os.pardir + os.sep))]:
        raise ValueError(
            f"{path} names {len(outside)} files that are not below {root}: {first_few(outside)}; expected paths"
            f" relative to {root}, or absolute"
        )
    return inside


def _parse(text: str) -> Sequence[str]:
    content = json.loads(text) if text.lstrip()[:1] == "[" or text.startswith("{\n") else None
    if content is None:
        lines = [line for line in text.split("\n") if line.strip("\r ")]
        return [json.loads(line)["file"] if line.startswith("{") else line.rstrip("\r") for line in lines]
    return [entry["file"] for entry in (content["skipped"] if isinstance(content, dict) else content)]
