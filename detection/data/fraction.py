"""Training with few labels: selects the subset of the images to train on (``MOCO.TRAIN_FRACTION``)."""

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
    """A subset of the training data.

    Attributes:
        records: the records of its images, in the order of the data sets.
        images: the image ids of each data set, in the same order.
        total: number of images in the full training data.
        total_objects: number of objects in the full training data.
    """

    records: list[Record]
    images: dict[str, list[str]]
    total: int
    total_objects: int


def training_records(cfg: CfgNode, *, announce: bool = False) -> list[Record]:
    """Load the images to train on: all images of ``DATASETS.TRAIN``, or the subset that the config selects.

    Args:
        cfg: the config of the run.
        announce: whether to log the size of a subset and list its images in ``OUTPUT_DIR/labelled_images.json``.

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
    """Load the subset of ``DATASETS.TRAIN`` that ``MOCO.TRAIN_FRACTION`` selects; see `choose`.

    The subset is taken from the images that a run with all labels uses: with ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``,
    images without usable objects are removed first. An image contains a class if one of its pixels, or one of its
    objects that is not a crowd, has that class.

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
        # Finding the classes requires decoding label images, so stop once every class has been seen.
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES if semantic else math.inf,
    )
    by_dataset: dict[str, list[str]] = {name: [] for name in cfg.DATASETS.TRAIN}
    for index in chosen:
        dataset, record = images[index]
        by_dataset[dataset].append(image_name(record))
    records = [images[index][1] for index in chosen]
    return Part(records, by_dataset, len(images), _count_objects(record for _, record in images))


def _load(cfg: CfgNode, numbers: Sequence[int]) -> list[Record]:
    """Load the data sets at the given indices of ``DATASETS.TRAIN``, as detectron2's loader does."""
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
    """Choose a subset of the images such that larger subsets contain smaller ones and each subset has every class.

    The names are sorted by a hash of the seed and the name, so the result depends neither on the order of the files nor
    on the state of a random generator. Images in which a class occurs for the first time in this order are moved to the
    front. The subset consists of the first images of the result. Its size is the requested number, or the number of
    images that were moved if that is larger.

    Args:
        names: the names of the images, which must be unique.
        fraction: the fraction of the images to choose; above 0 and at most 1.
        seed: the seed of the selection.
        classes_of: function that returns the classes in the image with a given index.
        num_classes: the number of classes after which the search stops.

    Returns:
        the indices of the chosen images, in ascending order.
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
    """Return an image's name, independent of the data set's folder: its id or, without an id, its file name."""
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
    """Describe the number of images and objects in a subset, and why it exceeds the requested number if it does."""
    asked = max(1, round(cfg.MOCO.TRAIN_FRACTION * part.total))
    more = f" (instead of {asked}, so that every class occurs)" if len(part.records) > asked else ""
    objects = f" with {_count_objects(part.records)} of {part.total_objects} objects" if part.total_objects else ""
    return (
        f"MOCO.TRAIN_FRACTION {cfg.MOCO.TRAIN_FRACTION:g}, seed {cfg.MOCO.FRACTION_SEED}: training on"
        f" {len(part.records)} of {part.total} images{more}{objects}"
    )
