"""Labelled images from an iNaturalist JSON file."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from mocodet.common.checks.images import files_below
from mocodet.common.formats.inaturalist import read_classified
from mocodet.common.text import first_few

from .exclusion import EVERYTHING, Exclusion
from .folders import ImageFiles, LabelledImages


def read_inaturalist(
    root: str | os.PathLike, annotations: str | os.PathLike, exclusion: Exclusion = EVERYTHING
) -> LabelledImages:
    """Find the images and classes listed in an iNaturalist JSON file; see `read_classified`.

    Args:
        root: folder that the file names are relative to.
        annotations: path of the JSON file.
        exclusion: images that have no index, and images that may be missing.

    Raises:
        FileNotFoundError: the file or the folder does not exist, or listed images are missing from the folder. Each
            folder in the list is read once, which is faster than checking half a million files separately.
        ValueError: see `read_classified`.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"{str(root)!r} is not a folder; expected the folder that the file names in {annotations} are relative to"
        )
    found = read_classified(Path(annotations))
    gone = exclusion.since | exclusion.unread
    kept = [n for n, name in enumerate(found.files) if os.path.normpath(name) not in exclusion.out]
    names = [found.files[n] for n in kept]
    _check_files(Path(root), [name for name in names if os.path.normpath(name) not in gone], str(annotations))
    return LabelledImages(
        ImageFiles(
            [os.path.join(root, name) for name in names],  # noqa: PTH118 (fast for half a million files)
            left_out=exclusion.places(map(os.path.normpath, names)),
            excluded=len(found.files) - len(names),
        ),
        torch.tensor([found.labels[n] for n in kept], dtype=torch.int64),
        found.classes,
    )


def _check_files(root: Path, names: Sequence[str], where: str) -> None:
    places = [os.path.split(name) for name in names]
    present = {folder: files_below(root / folder) for folder in {folder for folder, _ in places}}
    if missing := [name for name, (folder, file) in zip(names, places, strict=True) if file not in present[folder]]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} images listed in {where} are not in {root}: {first_few(missing)}; expected"
            " the folder that the file names are relative to"
        )
