"""The record of shards that are being written, by which the same command goes on after it was killed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mocodet.common.files import write_json
from mocodet.common.locks import CLAIM

UNFINISHED = "unfinished.json"  # beside the shards, until their index is there


class Unfinished:
    """What has been written so far of a folder's shards; written anew with each of them.

    Begins the record, or continues the one that is there.

    Args:
        output: the folder; the caller holds its claim.
        settings: what the shards follow from.
        total: images of all shards, damaged ones counted.

    Attributes:
        entries: of the index, for the shards that are whole.
        place: of the first image that is in none of them, in the order in which images are written.
        damaged: messages about images before that place that were left out.

    Raises:
        FileExistsError: the folder holds something else, or shards that follow from other settings.
        ValueError: the record that is there is damaged, or shards that it names are gone.
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
            raise FileExistsError(f"{output} is there and is not an empty folder; give another --output, or empty it")
        self._write()

    def add(self, entry: dict[str, Any], place: int | None) -> None:
        """Note that another shard is whole, and the place of the image that comes next; None: there is none."""
        self.entries.append(entry)
        self.place = self._total if place is None else place
        self._write()

    def remove(self) -> None:
        """Remove the record: the shards are complete, or there is none."""
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
                f"{self._path} is no record of shards that were begun ({type(error).__name__}: {error}); empty its"
                " folder, and write them anew"
            ) from error
        if gone:
            raise ValueError(f"{folder / gone[0]}, which {self._path} names, is gone; empty the folder, and write anew")
        if different := [key for key, value in self._settings.items() if settings.get(key) != value]:
            raise FileExistsError(
                f"{folder} holds shards that were begun with other {', '.join(different)}; give the same to go on with"
                " them, or another --output"
            )
        self.entries, self.place, self.damaged = entries, place, damaged
