"""Semantic segmentation: images with label images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mocodet.common.text import first_few, repeated

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIX = ".png"
INDEX_MODES = ("L", "P")  # 8-bit grey, 8-bit palette: Pillow gives the indices of both


def load_semseg(name: str, images: str, labels: str, split: str = "") -> list[dict]:
    """Pair the images of a folder with their labels, which bear the same name and end in ``.png``.

    Args:
        name: name of the data set, for messages.
        images: folder of ``.jpg``, ``.jpeg`` or ``.png`` images.
        labels: folder of the label images.
        split: file that names the images, one a line without suffix; empty: every image of the folder.

    Returns:
        detectron2's standard dicts with ``file_name``, ``sem_seg_file_name`` and ``image_id``.

    Raises:
        FileNotFoundError: a folder, the split file, an image or its label is missing.
        ValueError: there is no image, or a name stands for two.
    """
    for key, folder in (("images", images), ("labels", labels)):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"data set {name}: there is no folder of {key} {folder}")
    found = _listed_images(name, Path(images), Path(split)) if split else _images_of_folder(name, Path(images))
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


def _images_of_folder(name: str, folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"data set {name}: {folder} holds no {', '.join(IMAGE_SUFFIXES)}: the data set is empty")
    found = {path.stem: path for path in paths}
    if len(found) < len(paths):
        raise ValueError(
            f"data set {name}: {folder} holds images that differ in nothing but their suffix and would share their"
            f" labels: {first_few(repeated(path.stem for path in paths), 3)}"
        )
    return found


def _listed_images(name: str, folder: Path, split: Path) -> dict[str, Path]:
    if not split.is_file():
        known = ", ".join(sorted(file.name for file in split.parent.glob("*.txt"))) or "no list at all"
        raise FileNotFoundError(f"data set {name}: there is no split file {split}; its folder has {known}")
    names = [line.strip() for line in split.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"data set {name}: {split} names no image: the data set is empty")
    if longer := next((line for line in names if len(line.split()) > 1), None):
        raise ValueError(f"data set {name}: {split} must hold one image name a line, without suffix; found {longer!r}")
    if again := repeated(names):
        raise ValueError(f"data set {name}: {split} names {first_few(again, 3)} more than once")
    return {image: _find_image(name, folder, image, split) for image in names}


def _find_image(name: str, folder: Path, image: str, split: Path) -> Path:
    for suffix in IMAGE_SUFFIXES:
        if (path := folder / f"{image}{suffix}").is_file():
            return path
    raise FileNotFoundError(
        f"data set {name}: {split} names {image}, but there is no {folder / image} with {', '.join(IMAGE_SUFFIXES)}"
    )
