"""The list of images that a run could not read, ``OUTPUT_DIR/skipped.json``. The run stops if it becomes too long."""

import json
import logging
import os
import time
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from mocodet.common.files import write_json
from mocodet.common.formats.image import decode_pixels, read_file
from mocodet.common.locks import exclusive
from mocodet.common.text import on_one_line

from .exclusion import SKIPPED_FILES
from .replacing import Skipped
from .views import SKIPPED

logger = logging.getLogger("mocodet.pretrain")


class SkippedImages:
    """Records the images that all processes skipped in batches, in a single file.

    Its format is ``{"root": …, "images": …, "skipped": [{"file": …, "reason": …, "iteration": …, "time": …}, …]}``,
    with one entry per file. ``"settled": true`` marks files that were removed or excluded before the run was resumed.
    They do not count towards the limit.

    Args:
        output: ``OUTPUT_DIR``.
        root: folder that the file names are relative to, or ``""`` for shards.
        images: number of images.
        most: maximum fraction of images that may be unreadable.
    """

    def __init__(self, output: str | os.PathLike, root: str, images: int, most: float) -> None:
        self.path = Path(output, SKIPPED_FILES)
        self.root, self.images, self.most = str(Path(root)) if root else "", images, most
        self._known: set[str] = set()  # names that this process has already recorded

    def begin(self, excluded: Collection[str], max_pixels: int, *, resuming: bool) -> None:
        """Continue the list of a resumed run, or delete that of another run. Only the main process calls this, first.

        Files that can now be read are removed from the list.

        Args:
            excluded: files that are no longer loaded.
            max_pixels: maximum number of pixels in an image.
            resuming: whether the run is resumed.
        """
        if not resuming:
            self.path.unlink(missing_ok=True)
        elif self.root and (entries := self._read()):
            for entry in entries:
                entry["settled"] = entry["file"] in excluded or not Path(self.root, entry["file"]).exists()
            self._write([entry for entry in entries if entry["settled"] or not self._can_be_read(entry, max_pixels)])

    def watch(self, batches: Iterable[dict[str, Any]], iteration: int) -> Generator[dict[str, Any], None, None]:
        """Yield batches without their `SKIPPED` entry, starting with the batch of ``iteration``.

        Raises:
            ValueError: too many images cannot be read.
        """
        for at, batch in enumerate(batches, iteration):
            if skipped := [one for one in batch.pop(SKIPPED, ()) if one.name not in self._known]:
                self.add(skipped, at)
            yield batch

    def add(self, skipped: Iterable[Skipped], iteration: int) -> None:
        """Record images that were skipped in ``iteration``.

        Raises:
            ValueError: too many images cannot be read. The message contains the path of the list.
        """
        with exclusive(self.path) if comm.get_world_size() > 1 else nullcontext():
            entries = self._read()
            listed = {entry["file"] for entry in entries}
            for name, reason in dict(skipped).items():
                self._known.add(name)
                file = self._relative(name)
                if file in listed:
                    continue
                when = time.strftime("%FT%T%z")
                entries.append({"file": file, "reason": reason, "iteration": iteration, "time": when})
                logger.warning(on_one_line(f"{name} {reason}: replaced by another image; see {self.path}"))
            if len(entries) > len(listed):
                self._write(entries)
        count = sum(not entry.get("settled", False) for entry in entries)
        if count > self.most * self.images:
            remedy = (
                "Replace or remove them, or set DATA.EXCLUDE to a copy of the list, and continue with --resume"
                if self.root
                else "Write the shards again with mocodet shards --skip-damaged, and start a new run"
            )
            raise ValueError(
                f"{count:,} of {self.images:,} images cannot be read, more than DATA.MAX_UNREADABLE {self.most:g}"
                f" allows; they are listed in {self.path}. {remedy}; or increase the limit"
            )

    def _can_be_read(self, entry: Mapping[str, Any], max_pixels: int) -> bool:
        path = Path(self.root, entry["file"])
        try:
            decode_pixels(read_file(path), str(path), max_pixels)
        except (OSError, ValueError):
            return False
        return True

    def _relative(self, name: str) -> str:
        return os.path.relpath(name, self.root) if self.root else name

    def _read(self) -> list[dict[str, Any]]:
        return json.loads(self.path.read_bytes())["skipped"] if self.path.is_file() else []

    def _write(self, entries: list[dict[str, Any]]) -> None:
        write_json(self.path, {"root": self.root, "images": self.images, "skipped": entries})
