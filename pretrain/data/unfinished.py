"""A record of the shards being written, which allows the same command to continue after it was killed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mocodet.common.files import write_json
from mocodet.common.locks import CLAIM

UNFINISHED = "unfinished.json"  # in the folder of the shards until their index is written


class Unfinished:
    """The complete shards of an unfinished data set. The record is updated after each shard.

    The constructor creates a record or continues an existing one.

    Args:
        output: the folder, which the caller must have claimed.
        settings: the settings that determine the contents of the shards.
        total: number of images to write to shards, including damaged ones.

    Attributes:
        entries: index entries of the complete shards.
        place: position of the first image after these shards, in the order of writing.
        damaged: messages about images before that position that were omitted.

    Raises:
        FileExistsError: the folder contains something else, or shards with other settings.
        ValueError: the existing record is damaged, or shards that it lists are missing.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], total: int) -> None:
        self._path = output / UNFINISHED
        self._total = total
        self._settings = dict(settings)
        self.entries: list[dict[str, Any]] = []
        self.place = 0
        self.damaged: list[str] = []
        if self._path.is_file():
            self._read()
            return
        if any(path.name != CLAIM for path in output.iterdir()):
            raise FileExistsError(f"{output} exists and is not an empty folder; choose another --output, or empty it")
        self._write()

    def add(self, entry: dict[str, Any], place: int | None) -> None:
        """Record another complete shard, and the position of the next image (None if there is no next image)."""
        self.entries.append(entry)
        self.place = self._total if place is None else place
        self._write()

    def remove(self) -> None:
        """Remove the record, because the shards are complete or no shard was written."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        kept = {"shards": self.entries, "place": self.place, "damaged": self.damaged}
        write_json(self._path, {"settings": self._settings, **kept})

    def _read(self) -> None:
        folder = self._path.parent
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            settings, place = dict(content["settings"]), int(content["place"])
            entries = [{key: entry[key] for key in ("name", "images", "bytes")} for entry in content["shards"]]
            damaged = [str(message) for message in content["damaged"]]
            gone = [entry["name"] for entry in entries if not (folder / entry["name"]).is_file()]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._path} is not a valid record of unfinished shards ({type(error).__name__}: {error}); empty the"
                " folder and write the shards again"
            ) from error
        if gone:
            raise ValueError(
                f"{folder / gone[0]}, which is listed in {self._path}, is missing; empty the folder and write the"
                " shards again"
            )
        if different := [key for key, value in self._settings.items() if settings.get(key) != value]:
            raise FileExistsError(
                f"{folder} contains unfinished shards with different {', '.join(different)}; use the same settings to"
                " continue, or choose another --output"
            )
        self.entries, self.place, self.damaged = entries, place, damaged
