"""Checks of Cityscapes (cityscapes-dataset.com), finely annotated street scenes."""

import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from mocodet.common.formats.findings import Finding
from mocodet.common.formats.image import Size, by, open_file

from .findings import Fault, Tally, count_faults
from .images import ImageJob, image_fault, in_processes, known_size, ranges

IMAGE_COUNTS = {"train": 2_975, "val": 500}  # Cordts et al., CVPR 2016
IMAGE_ENDING = "_leftImg8bit.png"
LABEL_ENDING, TRAIN_ID_ENDING = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


@lru_cache
def label_table() -> tuple[frozenset[int], np.ndarray]:
    """Return Cityscapes' label ids, and the training id for each byte value (256 uint8 values, 255 for none).

    Raises:
        ImportError: cityscapesscripts, which contains the table, is not installed.
    """
    try:
        from cityscapesscripts.helpers.labels import labels
    except ImportError as error:
        raise ImportError(
            "Cityscapes requires the cityscapesscripts package for its label table. Install it with: pip install"
            " cityscapesscripts"
        ) from error
    table = np.full(256, 255, dtype=np.uint8)
    drawn = [label for label in labels if label.id >= 0]  # license plates (-1) are not drawn into label images
    for label in drawn:
        table[label.id] = label.trainId
    return frozenset(label.id for label in drawn), table


def read_labels(path: Path) -> np.ndarray:
    """Read a label image as an H x W integer array."""
    with open_file(path) as handle, Image.open(handle) as image:
        return np.asarray(image)


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Finding]:
    """Yield the errors in Cityscapes' train and val splits below ``root``; see `voc.check` for the arguments."""
    for split, number in IMAGE_COUNTS.items():
        images, annotations = (root / "cityscapes" / name / split for name in ("leftImg8bit", "gtFine"))
        if absent := [folder for folder in (images, annotations) if not folder.is_dir()]:
            yield from (Fault(folder, "is missing; run mocodet prepare-data cityscapes") for folder in absent)
            continue
        frames: dict[str, Path] = {}  # city/name without suffix -> image
        for path in sorted(images.glob("*/*")):
            if path.name.endswith(IMAGE_ENDING):
                frames[path.relative_to(images).as_posix().removesuffix(IMAGE_ENDING)] = path
            else:
                yield Fault(
                    path, f"is not named *{IMAGE_ENDING}, but detectron2 reads every file in this folder; remove it"
                )
        annotated: dict[str, Path] = {}  # frame -> the first of its annotations
        for path in sorted(annotations.glob("*/*_gtFine_*")):
            annotated.setdefault(path.relative_to(annotations).as_posix().rpartition("_gtFine_")[0], path)
        for frame, path in annotated.items():
            if frame not in frames:
                what = f"has no image {images / frame}{IMAGE_ENDING}; run prepare-data with --only leftImg8bit --again"
                yield Fault(path, what)
        look = partial(_frame_faults, annotations)
        for faults in in_processes(look, list(frames.items()), workers, f"{split} images"):
            yield from faults
        tally.counts["images"] += len(frames)
        if not any_size:
            yield from count_faults(images, "images", len(frames), number)


def _frame_faults(annotations: Path, job: tuple[str, Path]) -> list[Finding]:
    """Check one image and the files that belong to it; return the errors."""
    frame, picture = job
    known, train_ids = label_table()
    endings = ("_gtFine_instanceIds.png", LABEL_ENDING, "_gtFine_polygons.json", TRAIN_ID_ENDING)
    instances, labels, polygons, train = (annotations / f"{frame}{ending}" for ending in endings)
    faults: list[Finding] = [
        Fault(path, f"is missing, but {picture} needs it")
        for path in (instances, labels, polygons)
        if not path.is_file()
    ]
    if not train.is_file():
        faults.append(Fault(train, "is missing; create it with `mocodet prepare-data cityscapes`"))
    if fault := image_fault(ImageJob(picture)):
        return [*faults, fault]
    size = known_size(picture)
    values = {labels: known, train: frozenset(train_ids.tolist()), instances: None}
    jobs = [ImageJob(path, size, "its image", allowed) for path, allowed in values.items() if path.is_file()]
    broken = [fault for job in jobs if (fault := image_fault(job))]
    faults += broken
    if not broken and labels.is_file():
        if train.is_file() and (train_ids[read_labels(labels)] != read_labels(train)).any():
            faults.append(
                Fault(train, f"does not match {labels.name}; remove it and run mocodet prepare-data cityscapes")
            )
        if instances.is_file():
            faults += _instance_faults(instances, known)
    if size and polygons.is_file():
        faults += [Fault(polygons, what) for what in _polygon_faults(polygons, size)]
    return faults


def _instance_faults(path: Path, known: frozenset[int]) -> Iterator[Finding]:
    # Values are label * 1000 + instance number. Values below 1000 are plain labels of crowds or of classes without
    # instances.
    values = np.unique(read_labels(path)).astype(np.int64)
    labels = set(np.where(values >= 1000, values // 1000, values).tolist())
    if unknown := sorted(labels - known):
        yield Fault(path, f"has instances of label {unknown[0]}; valid labels are {ranges(known)}")


def _polygon_faults(path: Path, size: Size) -> Iterator[str]:
    from cityscapesscripts.helpers.labels import name2label

    try:
        content = json.loads(path.read_bytes())
        found, objects = (content["imgWidth"], content["imgHeight"]), list(content["objects"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"is not JSON with imgWidth, imgHeight and objects ({error!r})"
        yield f"{what}; run prepare-data with --only gtFine --again"
        return
    if found != size:
        yield f"specifies an image size of {by(found)}, but the image is {by(size)}"
    for number, item in enumerate(objects, start=1):
        if not isinstance(item, dict):
            yield f"object {number} is {item!r}; expected a label with a polygon"
            continue
        label, polygon = str(item.get("label")), item.get("polygon")
        if label not in name2label and label.removesuffix("group") not in name2label:
            yield f"object {number} has the label {label!r}, which is not a Cityscapes label"
        points = polygon if isinstance(polygon, list) else []
        if len(points) < 3 or any(not isinstance(point, list) or len(point) != 2 for point in points):
            yield f"object {number} ({label}) has no polygon of at least three points x, y"
