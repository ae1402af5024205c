"""Few labels: the part of the training images that a run learns from (``MOCO.TRAIN_FRACTION``)."""

import hashlib
import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils import comm

from mocodet.common.files import write_json
from mocodet.common.formats.labels import read_labels

from .classes import predicts_pixels

logger = logging.getLogger(__name__)

LIST_FILE = "labelled_images.json"  # in OUTPUT_DIR

Record = dict[str, Any]  # one of detectron2's standard dicts


@dataclass(frozen=True)
class Part:
    """A part of the training data.

    Attributes:
        records: of its images, in the order of the data sets.
        images: the ids of the images by data set, in the same order.
        total: number of all images, of which these are a part.
        total_objects: number of objects in all images.
    """

    records: list[Record]
    images: dict[str, list[str]]
    total: int
    total_objects: int


def training_records(cfg: CfgNode, *, announce: bool = False) -> list[Record]:
    """Load the images that a run learns from: those of ``DATASETS.TRAIN``, or the part that the config asks for.

    Args:
        cfg: config of the run.
        announce: log the size of a part, and list its images in ``OUTPUT_DIR/labelled_images.json``.

    Raises:
        ValueError: see `load_part`.
    """
    if cfg.MOCO.TRAIN_FRACTION == 1:
        return _load(cfg, range(len(cfg.DATASETS.TRAIN)))
    part = load_part(cfg)
    if announce:
        logger.info(_describe(cfg, part))
        if comm.is_main_process():
            content = {"fraction": cfg.MOCO.TRAIN_FRACTION, "seed": cfg.MOCO.FRACTION_SEED, "of": part.total}
            write_json(Path(cfg.OUTPUT_DIR, LIST_FILE), {**content, "images": part.images})
    return part.records


def load_part(cfg: CfgNode) -> Part:
    """Load the part of ``DATASETS.TRAIN`` that ``MOCO.TRAIN_FRACTION`` asks for; see `choose`.

    It is a part of the images that a run with all labels sees: with ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, images
    without usable objects are left out first. An image has a class if an object of it that is not a crowd, or a pixel,
    has the class.

    Raises:
        ValueError: a label image cannot be read.
    """
    images: list[tuple[str, Record]] = []
    for number, name in enumerate(cfg.DATASETS.TRAIN):
        images += [(name, record) for record in _load(cfg, [number])]
    semantic = predicts_pixels(cfg)
    chosen = choose(
        [f"{dataset}/{image_name(record)}" for dataset, record in images],
        cfg.MOCO.TRAIN_FRACTION,
        cfg.MOCO.FRACTION_SEED,
        lambda index: (_labels if semantic else _objects)(cfg, images[index][1]),
        # Label images must be decoded for this; read only as many as it takes to see every class.
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES if semantic else math.inf,
    )
    by_dataset: dict[str, list[str]] = {name: [] for name in cfg.DATASETS.TRAIN}
    for index in chosen:
        dataset, record = images[index]
        by_dataset[dataset].append(image_name(record))
    records = [images[index][1] for index in chosen]
    return Part(records, by_dataset, len(images), _count_objects(record for _, record in images))


def _load(cfg: CfgNode, numbers: Sequence[int]) -> list[Record]:
    """Load some of ``DATASETS.TRAIN``, by their indices in it, as detectron2's loader does."""
    return get_detection_dataset_dicts(
        [cfg.DATASETS.TRAIN[number] for number in numbers],
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=[cfg.DATASETS.PROPOSAL_FILES_TRAIN[n] for n in numbers] if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def choose(
    names: Sequence[str],
    fraction: float,
    seed: int,
    classes_of: Callable[[int], Collection[int]],
    num_classes: float = math.inf,
) -> list[int]:
    """Choose a part of the images, so that a larger part contains a smaller one and each part has every class.

    The names are ordered by a hash of seed and name, so neither the order of the files nor the state of a random
    generator matters. The images in which a class occurs first in this order move to the front. The part consists of
    the first images, as many as asked for, or of all those that were moved if they are more.

    Args:
        names: of the images, all different.
        fraction: of the images; above 0 and up to 1.
        seed: another seed gives another choice.
        classes_of: returns the classes that occur in the image with an index.
        num_classes: the search ends when this many classes have been seen.

    Returns:
        indices, ascending.
    """
    hashed = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=hashed.__getitem__)
    seen: set[int] = set()
    with_new_class = []
    for index in order:
        if len(seen) >= num_classes:
            break
        if new := set(classes_of(index)) - seen:
            with_new_class.append(index)
            seen |= new
    others = set(order).difference(with_new_class)
    wanted = max(1, round(fraction * len(names)), len(with_new_class))
    return sorted([*with_new_class, *(index for index in order if index in others)][:wanted])


def image_name(record: Record) -> str:
    """Return an image's name, which does not depend on the data set's folder: its id, or else its file name."""
    return str(record["image_id"]) if "image_id" in record else Path(record["file_name"]).name


def _objects(cfg: CfgNode, record: Record) -> set[int]:
    return {found["category_id"] for found in record.get("annotations", ()) if not found.get("iscrowd", 0)}


def _labels(cfg: CfgNode, record: Record) -> set[int]:
    head = cfg.MODEL.SEM_SEG_HEAD
    values = record.get("label_values", ())
    labels = read_labels(record["sem_seg_file_name"], head.NUM_CLASSES, head.IGNORE_VALUE, values)
    return set(np.unique(labels).tolist()) - {head.IGNORE_VALUE}


def _count_objects(records: Iterable[Record]) -> int:
    return sum(len(record.get("annotations", ())) for record in records)


def _describe(cfg: CfgNode, part: Part) -> str:
    """Say how many images and objects a part has, and why if it has more images than asked for."""
    asked = max(1, round(cfg.MOCO.TRAIN_FRACTION * part.total))
    more = f" (not {asked}, so that each class that occurs has an image)" if len(part.records) > asked else ""
    objects = f" with {_count_objects(part.records)} of {part.total_objects} objects" if part.total_objects else ""
    return (
        f"MOCO.TRAIN_FRACTION {cfg.MOCO.TRAIN_FRACTION:g}, seed {cfg.MOCO.FRACTION_SEED}: the run learns from"
        f" {len(part.records)} of {part.total} images{more}{objects}"
    )
