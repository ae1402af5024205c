"""Semantic segmentation: images with label images."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mocodet.common.formats.findings import log_repairs, refuse_errors
from mocodet.common.formats.image import image_suffixes
from mocodet.common.formats.lists import NamedFiles, read_list
from mocodet.common.text import first_few

logger = logging.getLogger(__name__)

LABEL_SUFFIX = ".png"
INDEX_MODES = ("L", "P")  # 8-bit grey, 8-bit palette: Pillow gives the indices of both


def load_semseg(name: str, images: str, labels: str, split: str = "") -> list[dict]:
    """Pair the images of a folder with their labels, which bear the same name and end in ``.png``.

    Args:
        name: name of the data set, for messages.
        images: folder of images, of any suffix that Pillow reads.
        labels: folder of the label images.
        split: file that names the images, one a line; empty: every image of the folder.

    Returns:
        detectron2's standard dicts with ``file_name``, ``sem_seg_file_name`` and ``image_id``.

    Raises:
        FileNotFoundError: a folder, the split file, an image or its label is missing.
        ValueError: there is no image, or a name stands for two.
    """
    for key, folder in (("images", images), ("labels", labels)):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"data set {name}: there is no folder of {key} {folder}")
    found = _find_images(name, Path(images), Path(split) if split else None)
    records = [
        {
            "file_name": str(path),
            "sem_seg_file_name": str(Path(labels) / f"{image}{LABEL_SUFFIX}"),
            "image_id": image,
        }
        for image, path in found.items()
    ]
    missing = [record["sem_seg_file_name"] for record in records if not Path(record["sem_seg_file_name"]).is_file()]
    if missing:
        raise FileNotFoundError(
            f"data set {name}: {len(missing)} of the {len(records)} images have no labels: there is no"
            f" {first_few(missing, 3)}"
        )
    return records


def read_labels(path: str | Path, num_classes: int, ignore_label: int) -> np.ndarray:
    """Read a label image as class indices.

    Palette images, as VOC's, give the indices: detectron2's own reader would turn their colours into shades of grey.

    Args:
        path: an 8-bit palette or grey image.
        num_classes: what indices must be below.
        ignore_label: the one value besides that may occur.

    Returns:
        H x W, uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or no 8-bit image of indices, or holds a value that is no class.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in INDEX_MODES:
                raise ValueError(
                    f"{path} has the mode {image.mode}; labels must be an 8-bit palette or grey image (mode P or L)"
                    " whose pixels are class indices"
                )
            labels = np.array(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no label image {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # Pillow raises any of them for damaged PNGs
        raise ValueError(f"{path} cannot be read as a label image: {error}") from error
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    if unknown := [int(value) for value in values if value >= num_classes and value != ignore_label]:
        raise ValueError(
            f"{path} holds the label {first_few([str(value) for value in unknown], 5)}; labels must be below the"
            f" number of classes, {num_classes}, or {ignore_label}, which is ignored"
        )
    return labels


def check_same_size(label_file: str, labels: Sequence[int], file: str, image: Sequence[int]) -> None:
    """Check that labels, (height, width), are of the size of the image that they belong to.

    Raises:
        ValueError: they differ; the message names both files.
    """
    if tuple(labels) != tuple(image):
        (height, width), (image_height, image_width) = labels, image
        raise ValueError(
            f"{label_file} has {width} x {height} pixels, but its image {file} has {image_width} x {image_height}"
        )


def _find_images(name: str, folder: Path, split: Path | None) -> dict[str, Path]:
    """Find the images of a folder, or those that a list names, by their names without suffix."""
    files = NamedFiles(folder, image_suffixes())
    names = sorted(files.names()) if split is None else _listed(name, split, files)
    if not names:
        raise ValueError(f"data set {name}: {folder} holds no image (.jpg, .png, ...): the data set is empty")
    found = {image: files.find(image) for image in names}
    if missing := [image for image, paths in found.items() if not paths]:
        raise FileNotFoundError(
            f"data set {name}: {split} names {first_few(missing, 3)}, but there is no such image in {folder}"
        )
    if twins := [image for image, paths in found.items() if len(paths) > 1]:
        raise ValueError(
            f"data set {name}: {folder} holds images that differ in nothing but their suffix and would share their"
            f" labels: {first_few(twins, 3)}"
        )
    return {image: paths[0] for image, paths in found.items()}


def _listed(name: str, split: Path, files: NamedFiles) -> list[str]:
    if not split.is_file():
        known = ", ".join(sorted(file.name for file in split.parent.glob("*.txt"))) or "no list at all"
        raise FileNotFoundError(f"data set {name}: there is no split file {split}; its folder has {known}")
    names, findings = read_list(split, lambda image: bool(files.find(image)))
    refuse_errors(name, findings)
    log_repairs(name, findings, logger)
    return names
