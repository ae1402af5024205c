"""Labelled images: one folder for each class, or iNaturalist's JSON; what evaluation and supervised training read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from mocodet.common.text import first_few

from .folders import ImageFolder
from .inaturalist import INaturalist


class LabelledImages(Protocol):
    """A labelled data set, whatever it was read from.

    Attributes:
        images: ``images[i]`` is an RGB image; ``images.paths`` are their files.
        labels: int64, N; places in ``classes``.
        classes: names of all classes.
    """

    images: Sequence[Image.Image]
    labels: torch.Tensor
    classes: list[str]


class LabelledFolder:
    """The images below a folder that holds one folder for each class, in the order of their paths.

    Attributes:
        images, labels, classes: see `LabelledImages`; the classes are the folders' names, sorted.
            ``images.passed_over`` counts the files that are not used, since they have no image's extension.

    Args:
        root: its class folders are searched to any depth, as `ImageFolder` does.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or holds no image.
        ValueError: an image lies beside the class folders, or a class folder has no image.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        if not Path(root).is_dir():
            raise FileNotFoundError(f"{str(root)!r} is not a folder; give one that holds one folder for each class")
        self.images = ImageFolder(root)
        names = [Path(path).relative_to(root).parts[0] for path in self.images.paths]
        folders = {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")}
        if loose := [name for name in names if name not in folders]:
            raise ValueError(
                f"{len(loose)} images of {root} are in no class folder: {first_few(loose)}; expected {root}/CLASS/IMAGE"
            )
        self.classes = sorted(folders)
        if empty := sorted(folders - set(names)):
            raise ValueError(f"{len(empty)} class folders of {root} hold no image: {first_few(empty)}; remove them")
        place = {name: number for number, name in enumerate(self.classes)}
        self.labels = torch.tensor([place[name] for name in names])  # N, int64


def open_labelled(root: str | os.PathLike, annotations: str | os.PathLike = "") -> LabelledImages:
    """Open a folder of class folders or, with ``annotations``, the images of an iNaturalist JSON file.

    Raises:
        FileNotFoundError, ValueError: see `LabelledFolder` and `INaturalist`.
    """
    return INaturalist(root, annotations) if str(annotations) else LabelledFolder(root)


def check_same_classes(train: Sequence[str], val: Sequence[str]) -> None:
    """Make sure that a label means the same class in both splits.

    Raises:
        ValueError: the classes, or their order, differ; the message names the difference.
    """
    in_train, in_val = set(train), set(val)
    if only := [f"{name} (training only)" for name in train if name not in in_val] + [
        f"{name} (validation only)" for name in val if name not in in_train
    ]:
        raise ValueError(
            f"the splits have other classes ({len(train)} for training, {len(val)} for validation): {first_few(only)};"
            " give two splits of one data set"
        )
    if list(train) != list(val):
        first = next(number for number, pair in enumerate(zip(train, val, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"the splits have the same classes in another order: class {first} is {train[first]!r} in training,"
            f" {val[first]!r} in validation; give two splits of one data set"
        )
