"""How Cityscapes (cityscapes-dataset.com) comes below the root of the data sets; its archives need a login."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mocodet.common.checks.cityscapes import IMAGE_COUNTS, LABEL_ENDING, TRAIN_ID_ENDING, label_table, read_labels
from mocodet.common.files import atomic_open

from .archives import Archive, inside
from .steps import Plan, Step

# Sizes in bytes are those of the files that the site hands out after the login; it publishes checksums to those who are
# logged in only.
ARCHIVES = tuple(
    Archive(
        name=f"{part}_trainvaltest.zip",
        part=part,
        place=inside((part, f"cityscapes/{part}")),
        targets=tuple(f"cityscapes/{part}/{split}" for split in IMAGE_COUNTS),
        size=size,
        unpacked=unpacked,
        read_with=package,
    )
    for part, size, unpacked, package in (
        ("gtFine", 252_567_705, 1_100_000_000, "cityscapesscripts"),
        ("leftImg8bit", 11_592_327_197, 11_700_000_000, None),
    )
)
BY_HAND = (
    "log in at https://www.cityscapes-dataset.com/downloads/ (free for research after registration), or"
    " `csDownload gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip` of cityscapesscripts"
)


def plan(root: Path) -> Plan:
    """Say how Cityscapes comes below ``root``."""
    folder = root / "cityscapes" / "gtFine"
    make = Step(
        "gtFine",
        f"write *{TRAIN_ID_ENDING}, which semantic segmentation needs, to {folder}",
        done=lambda: folder.is_dir() and all(path.exists() for path in _train_id_files(folder)),
        run=partial(make_train_ids, folder),
        forget=partial(remove_train_ids, folder),
    )
    return Plan(ARCHIVES, BY_HAND, [make])


def make_train_ids(folder: Path) -> None:
    """Write ``*_labelTrainIds.png`` beside every ``*_labelIds.png`` below ``folder`` that has none.

    Raises:
        ImportError: cityscapesscripts is not installed.
        ValueError: an image has a label that Cityscapes does not.
    """
    known, train_ids = label_table()
    todo = {path: labels for path, labels in _train_id_files(folder).items() if not path.exists()}
    for path, source in tqdm(todo.items(), desc="labelTrainIds", disable=None):
        labels = read_labels(source)
        if unknown := sorted(set(np.unique(labels).tolist()) - known):
            raise ValueError(f"{source} has the label {unknown[0]}, which Cityscapes does not; --only gtFine --again")
        with atomic_open(path) as handle:
            Image.fromarray(train_ids[labels]).save(handle, format="PNG")


def remove_train_ids(folder: Path) -> None:
    """Remove every ``*_labelTrainIds.png`` that `make_train_ids` would write below ``folder``."""
    for path in _train_id_files(folder):
        path.unlink(missing_ok=True)


def _train_id_files(folder: Path) -> dict[Path, Path]:
    """Return each file of training ids that there must be below ``folder``, and the file of labels it is made from."""
    sources = sorted(folder.glob(f"*/*/*{LABEL_ENDING}"))
    return {path.with_name(path.name.replace(LABEL_ENDING, TRAIN_ID_ENDING)): path for path in sources}
