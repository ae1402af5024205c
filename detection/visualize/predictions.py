"""Loads the ground truth of an image and the saved predictions of runs as `Thing` objects for drawing."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from mocodet.common.formats.labels import read_labels
from mocodet.common.text import first_few, repeated

from ..evaluation.build import predictions_folder
from ..evaluation.kinds import KINDS, kind_of
from ..evaluation.things import Thing, image_key

logger = logging.getLogger(__name__)


def class_names(dataset_name: str) -> Sequence[str]:
    """Return the names of the classes predicted on a data set."""
    metadata = MetadataCatalog.get(dataset_name)
    return metadata.stuff_classes if kind_of(dataset_name).has_label_images else metadata.thing_classes


def ground_truth(record: Mapping[str, Any], dataset_name: str) -> list[Thing]:
    """Return the ground truth of an image.

    Args:
        record: detectron2's standard dict, with ``annotations`` or ``sem_seg_file_name``.
        dataset_name: the data set of the image.

    Raises:
        FileNotFoundError, ValueError: the label image is missing or malformed.
    """
    if "sem_seg_file_name" in record and "annotations" not in record:
        classes, ignored = len(class_names(dataset_name)), MetadataCatalog.get(dataset_name).get("ignore_label", 255)
        labels = read_labels(record["sem_seg_file_name"], classes, ignored, record.get("label_values", ()))
        return [Thing(int(found), mask=labels == found) for found in np.unique(labels) if found != ignored]
    return [
        Thing(
            category=annotation["category_id"],
            box=BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS),
            mask=annotation.get("segmentation"),
            keypoints=np.reshape(annotation["keypoints"], (-1, 3)) if "keypoints" in annotation else None,
            crowd=bool(annotation.get("iscrowd", 0)),
        )
        for annotation in record["annotations"]
    ]


def read_run(
    name: str, path: str | Path, dataset_name: str, records: Sequence[Mapping[str, Any]]
) -> Mapping[str, list[Thing]]:
    """Read the predictions of a run, by image key. Images without predictions may be omitted.

    Args:
        name: the run's name, used in warnings.
        path: the file or folder of predictions (``inference/<data set>``), or the run's ``OUTPUT_DIR``.
        dataset_name: the data set of the predictions.
        records: the records of the data set.

    Raises:
        FileNotFoundError: there are no predictions.
        ValueError: the predictions are malformed or belong to another data set, or runs do not save predictions for
            data sets of this kind.
    """
    kind = kind_of(dataset_name)
    if kind.read is None:
        raise ValueError(
            f"data set {dataset_name} has the evaluator type {kind.evaluator_type!r}, for which runs save no"
            " predictions to draw; the supported types are"
            f" {', '.join(sorted(name for name, other in KINDS.items() if other.read))}"
        )
    things = kind.read(predictions_folder(path, dataset_name), MetadataCatalog.get(dataset_name), records)
    if not any(things.values()):
        logger.warning(f"{name}: {path} contains no predictions")
    return things


def index_records(records: Sequence[dict[str, Any]], dataset_name: str) -> dict[str, dict[str, Any]]:
    """Return the records by image key.

    Raises:
        ValueError: two images have the same key.
    """
    if again := repeated(map(image_key, records)):
        raise ValueError(f"data set {dataset_name} has multiple images with the name {first_few(again)}")
    return {image_key(record): record for record in records}
