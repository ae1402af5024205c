"""Loads data sets in Pascal VOC layout as detectron2 records."""

import logging
from collections.abc import Sequence

from detectron2.structures import BoxMode

from mocodet.common.formats.findings import log_repairs, merged, refuse_errors
from mocodet.common.formats.hold_out import HoldOut
from mocodet.common.formats.voc_folder import (
    VocFolder,
    VocImage,
    class_findings,
    measure,
    missing_image,
    read_split,
)

logger = logging.getLogger(__name__)


def load_voc(name: str, root: str, split: str, classes: Sequence[str], hold_out: HoldOut | None = None) -> list[dict]:
    """Read one split and the size of each image. Objects of other classes are ignored and counted in the log.

    Args:
        name: name of the data set, used in messages.
        root: folder with ``Annotations/``, ``ImageSets/Main/`` and ``JPEGImages/``, or with XML files and images.
        split: name of the list ``ImageSets/Main/<split>.txt``, or path of a file that lists the images.
        classes: class names in the order of their indices.
        hold_out: how to divide the images into train and test splits, instead of using a list.

    Returns:
        detectron2's standard dicts. As in detectron2, the annotations include objects marked difficult.

    Raises:
        FileNotFoundError: a folder or the split file does not exist.
        ValueError: the data set has an error that `mocodet prepare-data --check` reports.
    """
    folder = VocFolder(root)
    if folder.absent:
        raise FileNotFoundError(
            f"data set {name}: the folder {folder.absent[0]} does not exist; ROOT must be the folder that contains"
            " Annotations, ImageSets/Main and JPEGImages (in VOC's own archives, VOC2007 or VOC2012), or XML files and"
            " images side by side"
        )
    found = read_split(folder, split, classes, hold_out)
    of_classes = list(class_findings(found, classes))
    of_images = [missing_image(folder, image, found.listed) or measure(image) for image in found.images]
    findings = [*found.findings, *of_classes, *filter(None, of_images)]
    refuse_errors(name, findings)
    log_repairs(name, findings, logger)
    for finding in merged(one for one in findings if one.severity == "note"):
        logger.warning(f"data set {name}: {finding}")
    return [_to_record(image, classes) for image in found.images]


def _to_record(image: VocImage, classes: Sequence[str]) -> dict:
    width, height = image.annotation.size or (0, 0)  # `load_voc` rejects images of unknown size
    annotations = []
    for one in image.annotation.objects:
        xmin, ymin, xmax, ymax = one.box
        bbox = [xmin - 1.0, ymin - 1.0, xmax, ymax]
        annotations.append({"category_id": classes.index(one.name), "bbox": bbox, "bbox_mode": BoxMode.XYXY_ABS})
    return {
        "file_name": str(image.image),
        "image_id": image.name,
        "height": height,
        "width": width,
        "annotations": annotations,
    }
