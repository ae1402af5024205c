"""The training set for semantic segmentation on VOC 2012: VOC's masks, and SBD's masks for all other images.

SBD (Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011) provides masks for 11,355 images of VOC
2011, divided into its own train and val. Since Chen et al.'s DeepLab (arXiv 1412.7062), the usual training set has been
SBD's train and val and VOC's train without VOC's val, 10,582 images.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mocodet.common.checks.voc import COUNTS, MASK_LABELS, TRAINAUG_MASKS, list_file
from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

from .matlab import load_mat

SBD_LABELS = MASK_LABELS - {255}


def make(root: Path, images: int | None = COUNTS["VOC2012"]["Segmentation/trainaug"]) -> None:
    """Write the masks of trainaug and val to ``VOC2012/SegmentationClassAug``, then the list ``trainaug.txt``.

    The masks are 8-bit greyscale PNGs whose values are class indices, or 255 where VOC specifies no class. Existing
    masks are kept, so an interrupted run can resume.

    Args:
        root: folder that contains ``VOC2012`` and ``sbd``, both as unpacked.
        images: required number of images in the list; None accepts any number.

    Raises:
        FileNotFoundError: VOC 2012 or SBD has not been unpacked.
        ValueError: the list has a different length, or a mask is damaged.
    """
    folder, sbd = root / "VOC2012", root / "sbd"
    lists = {split: list_file(folder, f"Segmentation/{split}") for split in ("train", "val", "trainaug")}
    for needed in (lists["train"], sbd / "train.txt"):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{needed} does not exist; trainaug needs VOC 2012 and SBD, so use --only 2012 trainaug"
            )
    paths = (lists["train"], lists["val"], sbd / "train.txt", sbd / "val.txt")
    train, val, *sbd_names = (set(path.read_text(encoding="utf-8").split()) for path in paths)
    trainaug = sorted(train.union(*sbd_names) - val)
    if images is not None and len(trainaug) != images:
        raise ValueError(
            f"the lists in {sbd} and {lists['train'].parent} contain {len(trainaug):,} images for trainaug, but the"
            f" published list has {images:,}; a list has been changed, so use --only 2012 trainaug --again"
        )
    for name in tqdm(sorted({*trainaug, *val}), desc=TRAINAUG_MASKS, disable=None):
        target = folder / TRAINAUG_MASKS / f"{name}.png"
        if not target.exists():
            mask = _voc_mask(root, name) if name in train | val else _sbd_mask(root, name)
            with atomic_open(target) as handle:
                Image.fromarray(mask).save(handle, format="PNG")
    with atomic_open(lists["trainaug"], "w") as handle:
        handle.write("".join(f"{name}\n" for name in trainaug))


def _voc_mask(root: Path, name: str) -> np.ndarray:
    """Read the class indices, H x W, from one of VOC's masks, which are palette images."""
    path = root / "VOC2012" / "SegmentationClass" / f"{name}.png"
    with Image.open(path) as image:
        if image.mode != "P":
            raise ValueError(
                f"{path} has the mode {image.mode}; VOC's masks are palette images; use --only 2012 --again"
            )
        return np.asarray(image)


def _sbd_mask(root: Path, name: str) -> np.ndarray:
    """Read the class indices, H x W, from ``GTcls.Segmentation`` in one of SBD's mask files."""
    path = root / "sbd" / "cls" / f"{name}.mat"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, but SBD's lists contain it; use --only trainaug --again")
    mask = np.asarray(getattr(load_mat(path).get("GTcls"), "Segmentation", None))
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"{path} has no mask GTcls.Segmentation of 8-bit labels; use --only trainaug --again")
    if unknown := sorted(set(np.unique(mask).tolist()) - SBD_LABELS):
        raise ValueError(
            f"{path} has the labels {first_few([str(label) for label in unknown])}; SBD's labels are 0 to 20"
        )
    return mask
