"""Cityscapes (cityscapes-dataset.com): finely annotated streets; its archives need a login."""

import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mocodet.common.files import atomic_open

from .archives import Archive, inside
from .faults import Fault, ImageJob, Tally, count_fault, image_fault, image_size, in_processes, ranges
from .steps import Plan, Step

# Sizes in bytes are those of the files that the site hands out after the login; it publishes checksums to those who are
# logged in only.
ARCHIVES = (
    Archive(
        name="gtFine_trainvaltest.zip",
        part="gtFine",
        place=inside(("gtFine", "cityscapes/gtFine")),
        targets=("cityscapes/gtFine/train", "cityscapes/gtFine/val"),
        size=252_567_705,
        unpacked=1_100_000_000,
        read_with="cityscapesscripts",
    ),
    Archive(
        name="leftImg8bit_trainvaltest.zip",
        part="leftImg8bit",
        place=inside(("leftImg8bit", "cityscapes/leftImg8bit")),
        targets=("cityscapes/leftImg8bit/train", "cityscapes/leftImg8bit/val"),
        size=11_592_327_197,
        unpacked=11_700_000_000,
    ),
)
BY_HAND = (
    "log in at https://www.cityscapes-dataset.com/downloads/ (free for research after registration), or"
    " `csDownload gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip` of cityscapesscripts"
)

IMAGE_COUNTS = {"train": 2_975, "val": 500}  # Cordts et al., CVPR 2016
IMAGE_ENDING = "_leftImg8bit.png"
ANNOTATION_ENDINGS = tuple(
    f"_gtFine_{kind}" for kind in ("instanceIds.png", "labelIds.png", "labelTrainIds.png", "polygons.json")
)


def plan(root: Path) -> Plan:
    """Say how Cityscapes comes below ``root``."""
    folder = root / "cityscapes" / "gtFine"
    further = Step(
        "gtFine",
        f"write *_gtFine_labelTrainIds.png, which semantic segmentation needs, to {folder}",
        lambda: folder.is_dir() and not _without_train_ids(folder),
        lambda: make_train_ids(folder),
        lambda: remove_train_ids(folder),
    )
    return Plan(ARCHIVES, BY_HAND, [further])


def make_train_ids(folder: Path) -> None:
    """Write ``*_labelTrainIds.png`` beside every ``*_labelIds.png`` below ``folder`` that has none.

    Raises:
        ImportError: cityscapesscripts is not installed.
        ValueError: an image has a label that Cityscapes does not.
    """
    known, train_ids = label_table()
    for path in tqdm(_without_train_ids(folder), desc="labelTrainIds", disable=None):
        with Image.open(path) as image:
            labels = np.asarray(image)
        if unknown := sorted(set(np.unique(labels).tolist()) - known):
            raise ValueError(f"{path} has the label {unknown[0]}, which Cityscapes does not; --only gtFine --again")
        with atomic_open(_train_ids_path(path)) as handle:
            Image.fromarray(train_ids[labels]).save(handle, format="PNG")


def remove_train_ids(folder: Path) -> None:
    """Remove every ``*_labelTrainIds.png`` that `make_train_ids` would write below ``folder``."""
    for path in _label_files(folder):
        _train_ids_path(path).unlink(missing_ok=True)


@lru_cache
def label_table() -> tuple[frozenset[int], np.ndarray]:
    """Return the label ids of Cityscapes, and the training id of each value of a byte (256, uint8; 255: none).

    Raises:
        ImportError: cityscapesscripts, which has the table, is not installed.
    """
    try:
        from cityscapesscripts.helpers.labels import labels
    except ImportError as error:
        raise ImportError(
            "the table of Cityscapes' labels is in cityscapesscripts: pip install cityscapesscripts"
        ) from error
    table = np.full(256, 255, dtype=np.uint8)
    drawn = [label for label in labels if label.id >= 0]  # license plates, -1, are not drawn into label images
    for label in drawn:
        table[label.id] = label.trainId
    return frozenset(label.id for label in drawn), table


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of train and val of Cityscapes below ``root``; arguments as in `voc.check`."""
    for split, number in IMAGE_COUNTS.items():
        images, annotations = (root / "cityscapes" / name / split for name in ("leftImg8bit", "gtFine"))
        absent = [folder for folder in (images, annotations) if not folder.is_dir()]
        if absent:
            yield from (Fault(folder, "is missing; prepare cityscapes") for folder in absent)
            continue
        found = sorted(images.glob("*/*"))
        pictures = [path for path in found if path.name.endswith(IMAGE_ENDING)]
        for path in sorted(set(found) - set(pictures)):
            yield Fault(path, f"is not called *{IMAGE_ENDING}, and detectron2 reads every file here; remove it")
        bases = {path.relative_to(images).as_posix().removesuffix(IMAGE_ENDING): path for path in pictures}
        yield from _strays(annotations, set(bases), images)
        known, table = label_table()
        look = partial(_look, annotations=annotations, known=known, table=table)
        for faults in in_processes(look, list(bases.items()), workers, f"{split} images"):
            yield from faults
        tally.counts["images"] += len(bases)
        if not any_size:
            yield from count_fault(images, "images", len(bases), number)


def _train_ids_path(path: Path) -> Path:
    return path.with_name(path.name.replace("_labelIds.png", "_labelTrainIds.png"))


def _without_train_ids(folder: Path) -> list[Path]:
    return [path for path in _label_files(folder) if not _train_ids_path(path).exists()]


def _label_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*_gtFine_labelIds.png"))


def _strays(annotations: Path, bases: set[str], images: Path) -> Iterator[Fault]:
    """Yield a fault for each frame that is annotated but has no image, with one of its annotations."""
    first: dict[str, Path] = {}
    for path in sorted(annotations.glob("*/*_gtFine_*")):
        first.setdefault(path.relative_to(annotations).as_posix().rpartition("_gtFine_")[0], path)
    for base, path in first.items():
        if base not in bases:
            yield Fault(path, f"has no image {images / base}{IMAGE_ENDING}; prepare with --only leftImg8bit --again")


def _look(job: tuple[str, Path], annotations: Path, known: frozenset[int], table: np.ndarray) -> list[Fault] | None:
    """Look at one image and what belongs to it; return what is wrong."""
    base, picture = job
    instances, labels, train, polygons = (annotations / f"{base}{ending}" for ending in ANNOTATION_ENDINGS)
    faults = [
        Fault(path, f"is missing; {picture} needs it") for path in (instances, labels, polygons) if not path.is_file()
    ]
    if not train.is_file():
        faults.append(Fault(train, "is missing; `prepare_data.py cityscapes` makes it"))
    if fault := image_fault(ImageJob(picture)):
        return [*faults, fault]
    size = image_size(picture)
    train_values = frozenset(table.tolist())
    images = [ImageJob(labels, size, "its image", known), ImageJob(train, size, "its image", train_values)]
    images.append(ImageJob(instances, size, "its image"))
    broken = [fault for job in images if job.path.is_file() and (fault := image_fault(job))]
    faults += broken
    if not broken and labels.is_file() and train.is_file() and (table[_pixels(labels)] != _pixels(train)).any():
        faults.append(Fault(train, f"is not what {labels.name} gives; remove it and prepare cityscapes again"))
    if not broken and instances.is_file() and labels.is_file():
        faults += _instance_faults(instances, known)
    if polygons.is_file():
        faults += [Fault(polygons, what) for what in _polygon_faults(polygons, size)]
    return faults or None


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _instance_faults(path: Path, known: frozenset[int]) -> Iterator[Fault]:
    # label * 1000 + number; below 1000 it is a label alone: of a crowd, or of a class without instances.
    values = np.unique(_pixels(path)).astype(np.int64)
    labels = set(np.where(values >= 1000, values // 1000, values).tolist())
    if unknown := sorted(labels - known):
        yield Fault(path, f"has instances of label {unknown[0]}; known are {ranges(known)}")


def _polygon_faults(path: Path, size: tuple[int, int] | None) -> Iterator[str]:
    from cityscapesscripts.helpers.labels import name2label

    try:
        content = json.loads(path.read_bytes())
        found, objects = (content["imgWidth"], content["imgHeight"]), list(content["objects"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield f"is no JSON of imgWidth, imgHeight and objects ({error!r}); prepare with --only gtFine --again"
        return
    if found != size:
        yield f"says that its image is {found[0]} x {found[1]}, but it is {size[0]} x {size[1]}"
    for number, item in enumerate(objects, start=1):
        if not isinstance(item, dict):
            yield f"object {number} is {item!r} instead of a label with a polygon"
            continue
        label, polygon = str(item.get("label")), item.get("polygon")
        if label not in name2label and label.removesuffix("group") not in name2label:
            yield f"object {number} has the label {label!r}, which Cityscapes does not"
        points = polygon if isinstance(polygon, list) else []
        if len(points) < 3 or any(not isinstance(point, list) or len(point) != 2 for point in points):
            yield f"object {number} ({label}) has no polygon of three points x, y or more"
