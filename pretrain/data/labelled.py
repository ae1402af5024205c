"""Labelled images for evaluation and supervised training, from class folders or an iNaturalist JSON file."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from mocodet.common.text import first_few

from .exclusion import EVERYTHING, Exclusion
from .folders import ImageFolder, LabelledImages
from .inaturalist import read_inaturalist


def open_labelled(
    root: str | os.PathLike, annotations: str | os.PathLike = "", exclusion: Exclusion = EVERYTHING
) -> LabelledImages:
    """Open a folder with one subfolder per class or, with ``annotations``, the images in an iNaturalist JSON file.

    Raises:
        FileNotFoundError, ValueError: see `read_class_folders` and `read_inaturalist`.
    """
    if str(annotations):
        return read_inaturalist(root, annotations, exclusion)
    return read_class_folders(root, exclusion)


def read_class_folders(root: str | os.PathLike, exclusion: Exclusion = EVERYTHING) -> LabelledImages:
    """Find the images below a folder with one subfolder per class, sorted by path.

    Args:
        root: folder of class folders, which are searched recursively, as in `ImageFolder`.
        exclusion: see `ImageFolder`.

    Returns:
        the labelled images, whose classes are the sorted names of the subfolders.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or contains no images.
        ValueError: an image is not in a class folder, or a class folder contains no images.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{str(root)!r} is not a folder; expected a folder with one subfolder for each class")
    images = ImageFolder(root, exclusion)
    start = len(str(Path(root, "-"))) - 1
    names = [path[start:].partition(os.sep)[0] for path in images.paths]
    folders = {path.name for path in Path(root).iterdir() if path.is_dir() and not path.name.startswith(".")}
    if loose := [name for name in names if name not in folders]:
        raise ValueError(
            f"{len(loose)} images of {root} are not in a class folder: {first_few(loose)}; expected {root}/CLASS/IMAGE"
        )
    if empty := sorted(folders - set(names)):
        raise ValueError(f"{len(empty)} class folders of {root} contain no images: {first_few(empty)}; remove them")
    classes = sorted(folders)
    place = {name: number for number, name in enumerate(classes)}
    return LabelledImages(images, torch.tensor([place[name] for name in names]), classes)


def check_same_classes(train: Sequence[str], val: Sequence[str]) -> None:
    """Check that labels have the same meaning in both splits.

    Raises:
        ValueError: the classes or their order differ. The message describes the difference.
    """
    in_train, in_val = set(train), set(val)
    if only := [f"{name} (training only)" for name in train if name not in in_val] + [
        f"{name} (validation only)" for name in val if name not in in_train
    ]:
        raise ValueError(
            f"the splits have different classes ({len(train)} for training, {len(val)} for validation):"
            f" {first_few(only)}; use two splits of the same data set"
        )
    if list(train) != list(val):
        first = next(number for number, pair in enumerate(zip(train, val, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"the splits have the same classes in a different order: class {first} is {train[first]!r} in training but"
            f" {val[first]!r} in validation; use two splits of the same data set"
        )
