"""Excluded files of a folder, and the numbering of the others in a resumed run.

A new run leaves out the files of ``DATA.EXCLUDE``. A resumed run keeps the numbering that it began with: a file that
was listed since then keeps its place, whether or not it still exists, and every draw of it is replaced. The same holds
for a file that the run could not read and that was removed.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mocodet.common.files import write_json
from mocodet.common.text import first_few

EXCLUDED = "excluded.json"  # in OUTPUT_DIR: the files that its run began without
SKIPPED_FILES = "skipped.json"  # in OUTPUT_DIR: the files that its run could not read


@dataclass(frozen=True)
class Exclusion:
    """Excluded files; names are relative to the folder.

    Attributes:
        out: files without a place.
        since: files that keep their places but are not drawn.
        unread: files that keep their places and could not be read at some time.
    """

    out: frozenset[str] = frozenset()
    since: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()

    def number(self, found: Iterable[str]) -> list[str]:
        """Return the files that have places, in the order of their names: those ``found`` and those of earlier."""
        return sorted((self.since | self.unread).union(found) - self.out)

    def places(self, names: Iterable[str]) -> frozenset[int]:
        """Return the positions in ``names`` of the files that are not drawn."""
        return frozenset(place for place, name in enumerate(names) if name in self.since) if self.since else frozenset()


EVERYTHING = Exclusion()  # excludes nothing


def read_exclusion(listed: str, root: str, output: str | os.PathLike, *, resuming: bool) -> Exclusion:
    """Read the excluded files of a run.

    Args:
        listed: ``DATA.EXCLUDE``: a file, see `read_names`; ``""``: none.
        root: the folder.
        output: ``OUTPUT_DIR`` of the run.
        resuming: whether a run resumes there.

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
    """Write the exclusion that a new run begins with, for resuming it; remove what an earlier run may have left."""
    if exclusion.out:
        write_json(Path(output, EXCLUDED), [{"file": name} for name in sorted(exclusion.out)])
    else:
        Path(output, EXCLUDED).unlink(missing_ok=True)


def read_names(path: str | os.PathLike, root: str | os.PathLike) -> list[str]:
    """Read a list of files: a path per line, or objects with ``"file"``, one per line or in a list as `SKIPPED_FILES`.

    Args:
        path: the list.
        root: the folder that its paths are relative to; absolute paths are allowed too.

    Returns:
        paths relative to ``root``, such as ``a/b.jpg``.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: it is not a list of files, or names a file that is not below ``root``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"DATA.EXCLUDE {path} is not a file; mocodet prepare-data images --output writes one")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
        names = [os.path.normpath(name) for name in _parse(text)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a list of files ({error}); expected a path per line, or the output of prepare-data images"
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
