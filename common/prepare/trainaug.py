"""The training set of semantic segmentation on VOC 2012: VOC's masks, and SBD's for the images that VOC gives none for.

SBD is Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011: masks for 11,355 images of VOC 2011 in
its own division into train and val. The field trains on SBD's train and val and VOC's train without VOC's val, 10,582
images, since Chen et al.'s DeepLab (arXiv 1412.7062).
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

from .matlab import load_mat

FOLDER = "SegmentationClassAug"
TRAINAUG_IMAGES = 10_582
SBD_LABELS = range(21)


def is_made(root: Path) -> bool:
    """Tell whether the masks and the list, which is written last, are there."""
    return (root / "VOC2012" / FOLDER).is_dir() and list_path(root, "trainaug").is_file()


def list_path(root: Path, split: str) -> Path:
    """Return the file that lists the images of a split of segmentation."""
    return root / "VOC2012" / "ImageSets" / "Segmentation" / f"{split}.txt"


def remove(root: Path) -> None:
    """Remove the list and the masks."""
    list_path(root, "trainaug").unlink(missing_ok=True)
    if (root / "VOC2012" / FOLDER).is_dir():
        shutil.rmtree(root / "VOC2012" / FOLDER)


def make(root: Path, images: int | None = TRAINAUG_IMAGES) -> None:
    """Write the masks of trainaug and val to ``VOC2012/SegmentationClassAug``, then the list ``trainaug.txt``.

    Masks are 8-bit grey PNGs whose values are the class indices, 255 where VOC gives none. Those that are there already
    stay: an interrupted run goes on.

    Args:
        root: holds ``VOC2012`` and ``sbd``, both as unpacked.
        images: how many the list must have; None: any number.

    Raises:
        FileNotFoundError: VOC2012 or SBD has not been unpacked.
        ValueError: the list would be of another length, or a mask is damaged.
    """
    for needed in (list_path(root, "train"), root / "sbd" / "train.txt"):
        if not needed.is_file():
            raise FileNotFoundError(f"there is no {needed}; trainaug needs VOC 2012 and SBD: --only 2012 trainaug")
    voc_train, voc_val = _names(list_path(root, "train")), _names(list_path(root, "val"))
    sbd = _names(root / "sbd" / "train.txt") + _names(root / "sbd" / "val.txt")
    trainaug = sorted({*sbd, *voc_train} - {*voc_val})
    if images is not None and len(trainaug) != images:
        raise ValueError(
            f"the lists in {root / 'sbd'} and {list_path(root, 'train').parent} give {len(trainaug):,} images for"
            f" trainaug, the published list has {images:,}; one of them has been changed: --only 2012 trainaug --again"
        )
    annotated_by_voc = {*voc_train, *voc_val}
    for name in tqdm(sorted({*trainaug, *voc_val}), desc=FOLDER, disable=None):
        target = root / "VOC2012" / FOLDER / f"{name}.png"
        if not target.exists():
            mask = _voc_mask(root, name) if name in annotated_by_voc else _sbd_mask(root, name)
            with atomic_open(target) as handle:
                Image.fromarray(mask).save(handle, format="PNG")
    with atomic_open(list_path(root, "trainaug"), "w") as handle:
        handle.write("".join(f"{name}\n" for name in trainaug))


def _names(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


def _voc_mask(root: Path, name: str) -> np.ndarray:
    """Read the indices, H x W, of one of VOC's masks, whose palette gives them colours."""
    path = root / "VOC2012" / "SegmentationClass" / f"{name}.png"
    with Image.open(path) as image:
        if image.mode != "P":
            raise ValueError(f"{path} is of mode {image.mode}; VOC's masks have a palette: --only 2012 --again")
        return np.asarray(image)


def _sbd_mask(root: Path, name: str) -> np.ndarray:
    """Read the class indices, H x W, of one of SBD's masks: ``GTcls.Segmentation``."""
    path = root / "sbd" / "cls" / f"{name}.mat"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, which SBD's lists name; --only trainaug --again")
    content = load_mat(path, str(path))
    mask = np.asarray(getattr(content.get("GTcls"), "Segmentation", None))
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"{path} holds no mask GTcls.Segmentation of 8-bit labels; --only trainaug --again")
    if unknown := sorted(set(np.unique(mask).tolist()) - set(SBD_LABELS)):
        raise ValueError(f"{path} has the labels {first_few([str(label) for label in unknown])}; SBD's are 0 to 20")
    return mask
