"""Writes the output of ``mocodet predict``: COCO results and image list, label images, and annotated images."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image

from mocodet.common.files import atomic_open, write_json
from mocodet.common.formats.image import stem_of

from ..data.classes import Classes
from ..evaluation.coco_results import RESULTS, as_thing
from ..evaluation.things import Thing
from ..visualize.draw import draw_things
from .images import ImageFile
from .predictor import Prediction

IMAGES = "images.json"
LABELS = "labels"
PICTURES = "pictures"
COMMAND = "predict.json"  # the request; identifies a folder of predictions
QUALITY = 90  # JPEG quality of annotated images
DRAWN_FROM = 0.5  # default minimum score of objects to draw


def start_folder(folder: Path, command: Mapping[str, Any], *, overwrite: bool) -> None:
    """Create the folder of predictions, and record the request in it.

    Args:
        folder: the folder, which must not exist or must be empty. With ``overwrite``, it may contain earlier
            predictions, which are removed.
        command: the request.
        overwrite: whether earlier predictions may be removed.

    Raises:
        ValueError: the folder contains other files, or predictions that must not be overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file; specify a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / COMMAND).is_file():
            raise ValueError(f"--output {folder} contains files other than predictions; choose a new folder")
        if not overwrite:
            raise ValueError(
                f"--output {folder} already contains predictions; choose another folder, or add --overwrite"
            )
        for name in (PICTURES, LABELS):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (RESULTS, IMAGES, COMMAND):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / COMMAND, command)


def write_images(folder: Path, root: Path, images: Sequence[Mapping[str, Any]], classes: Classes) -> None:
    """Write ``images.json``, which pycocotools' ``loadRes`` requires to read the results.

    Args:
        folder: the folder of the predictions.
        root: the folder to which the images' file names are relative.
        images: ``id``, ``file_name``, ``width`` and ``height`` of each image.
        classes: the classes of the model.
    """
    info = {"description": "images of mocodet predict", "root": str(root)}
    content = {"info": info, "images": list(images), "annotations": [], "categories": classes.categories()}
    write_json(folder / IMAGES, content)


def output_names(files: Sequence[ImageFile]) -> list[str]:
    """Return output names for images: the image names without extensions, unless two of these would be equal."""
    stems = [stem_of(file.name) for file in files]
    return stems if len(set(stems)) == len(files) else [file.name for file in files]


class Writer(Protocol):
    """Writes the predictions on an image."""

    def __call__(self, image_id: int, name: str, found: Prediction) -> list[Thing]:
        """Write the predictions on an image, and return them as `Thing` objects for drawing."""


@contextmanager
def object_writer(folder: Path, classes: Classes, threshold: float | None) -> Iterator[Writer]:
    """Open ``coco_instances_results.json``, which is created when the block ends without an error.

    Args:
        folder: the folder of the predictions.
        classes: the classes of the model.
        threshold: the minimum score of objects to write and draw. If None, all objects are written, and those with a
            score of at least DRAWN_FROM are drawn.
    """

    def write(image_id: int, name: str, found: Prediction) -> list[Thing]:
        assert not isinstance(found, np.ndarray)
        things = []
        for row in instances_to_coco_json(found[found.scores >= (threshold or 0)], image_id):
            index = row["category_id"]
            row["category_id"] = classes.ids[index]
            add(row)
            if row["score"] >= (DRAWN_FROM if threshold is None else threshold):
                things.append(as_thing(row, index))
        return things

    with _json_list(folder / RESULTS) as add:
        yield write


@dataclass(frozen=True)
class LabelWriter:
    """Writes label images: 8-bit palette PNGs whose pixels are class indices, displayed in the classes' colours."""

    folder: Path
    classes: Classes

    def __call__(self, image_id: int, name: str, found: Prediction) -> list[Thing]:
        """See `Writer`."""
        labels = np.asarray(found, dtype=np.uint8)
        picture = Image.fromarray(labels)
        palette = [value for colour in self.classes.colours for value in colour]
        picture.putpalette(palette + [0] * (3 * 256 - len(palette)))  # with fewer colours, Pillow would use fewer bits
        with atomic_open(self.folder / LABELS / f"{name}.png") as handle:
            picture.save(handle, format="PNG")
        return [Thing(int(index), mask=labels == index) for index in np.unique(labels)]


def write_picture(folder: Path, name: str, pixels: np.ndarray, things: Sequence[Thing], classes: Classes) -> None:
    """Write ``pictures/<name>.jpg``, an image (H x W x 3, uint8, RGB) with things drawn on it."""
    drawn = draw_things(pixels, things, classes.names, classes.as_metadata())
    with atomic_open(folder / PICTURES / f"{name}.jpg") as handle:
        Image.fromarray(drawn).save(handle, format="JPEG", quality=QUALITY)


@contextmanager
def _json_list(path: Path) -> Iterator[Callable[[Any], None]]:
    """Write a JSON list item by item, because the complete list may not fit into memory."""
    with atomic_open(path, "w", encoding="utf-8") as handle:
        start = "[\n"

        def add(item: Any) -> None:
            nonlocal start
            handle.write(start + json.dumps(item, allow_nan=False))
            start = ",\n"

        yield add
        handle.write("\n]\n" if start == ",\n" else "[]\n")
