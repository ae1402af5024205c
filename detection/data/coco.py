"""Reads data sets of boxes, masks and keypoints in COCO or YOLO format, and reports errors precisely."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from mocodet.common.formats.coco import KEYPOINTS, LEFT, Coco, choose_classes, choose_images, mirrored, read_coco
from mocodet.common.formats.coco_values import Record, uncollected
from mocodet.common.formats.findings import Finding, log_repairs, refuse_errors
from mocodet.common.formats.hold_out import HoldOut
from mocodet.common.formats.image import image_size, size_fault
from mocodet.common.formats.near_file import NearFiles
from mocodet.common.formats.yolo_folder import folder_of, read_yolo
from mocodet.common.text import on_one_line

logger = logging.getLogger(__name__)

READERS = 8  # number of threads that read files
TOGETHER = 500  # number of files per thread task


@uncollected()
def load_coco(
    name: str,
    json: str,
    images: str,
    classes: Sequence[str] = (),
    split: str = "",
    hold_out: HoldOut | None = None,
) -> list[dict]:
    """Read a COCO JSON file as detectron2's ``load_coco_json`` does, repair it, and check it against its images.

    Like detectron2, this function sets ``thing_classes`` and the category mapping in the metadata of ``name``. If
    objects have keypoints, it also sets ``keypoint_names`` and ``keypoint_flip_map``.

    Args:
        name: the name of the data set.
        json: path of the JSON file.
        images: the folder to which the file names in the JSON file are relative.
        classes: the categories to learn, in the order of their indices; if empty, all categories (`choose_classes`).
        split: with ``hold_out``, the split to read.
        hold_out: how to divide the images into train and test splits; None reads all images.

    Raises:
        FileNotFoundError: the file, the folder or an image does not exist.
        ValueError: the file contains an error (`read_coco`), a class is not one of its categories, the split is empty,
            or the size of an image differs from the size recorded in the file.
    """
    if not Path(json).is_file():
        raise FileNotFoundError(f"data set {name}: the annotation file {json} does not exist")
    if not Path(images).is_dir():
        raise FileNotFoundError(f"data set {name}: the image folder {images} does not exist")
    coco = read_coco(Path(json), Path(images))
    refuse_errors(name, coco.findings)
    coco = choose_images(choose_classes(coco, classes), split, hold_out)
    _refuse_missing(name, coco, Path(images))
    refuse_errors(name, _size_errors(coco, Path(images)))
    return _records(name, coco, Path(images))


def load_yolo(
    name: str, root: str, split: str = "", classes: Sequence[str] = (), hold_out: HoldOut | None = None
) -> list[dict]:
    """Read a split of a data set in YOLO format, and set the metadata of ``name`` as `load_coco` does.

    Args:
        name: the name of the data set.
        root: path of ``data.yaml`` or of a folder (`read_yolo`).
        split: the split to read.
        classes: the classes to learn, in the order of their indices; if empty, all classes.
        hold_out: how to divide the images into train and test splits, if the data set has only one split.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ValueError: the files contain an error, or a class is not in the data set.
    """
    coco = read_yolo(Path(root), split, classes, hold_out)
    refuse_errors(name, coco.findings)
    return _records(name, coco, folder_of(coco.path))


def _records(name: str, coco: Coco, images: Path) -> list[dict]:
    """Set a data set's metadata and return detectron2's standard dicts; ``images`` is the folder of its images."""
    log_repairs(name, coco.findings, logger)
    for finding in coco.findings:
        if finding.severity == "note":
            logger.info(f"data set {name}: {finding}")
    ids = {category["id"]: index for index, category in enumerate(coco.categories)}
    metadata = MetadataCatalog.get(name)
    metadata.set(thing_classes=list(coco.classes), thing_dataset_id_to_contiguous_id=ids)
    if coco.keypoint_names:
        pairs = [(word, mirrored(word)) for word in coco.keypoint_names if word.startswith(LEFT)]
        metadata.set(keypoint_names=list(coco.keypoint_names), keypoint_flip_map=pairs)
    elif faults := [str(finding) for finding in coco.findings if finding.remedy.startswith(KEYPOINTS)]:
        metadata.set(keypoint_fault=faults[0])
    annotations = defaultdict(list)
    for annotation in coco.annotations:
        annotations[annotation["image_id"]].append(_object(annotation, ids[annotation["category_id"]]))
    return [
        {
            "file_name": str(Path(images, image["file_name"])),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": annotations[image["id"]],
        }
        for image in coco.images
    ]


def _object(annotation: Record, category: int) -> Record:
    """Convert an annotation to the format that detectron2's mapper accepts."""
    found = {
        "iscrowd": annotation["iscrowd"],
        "bbox": annotation["bbox"],
        "category_id": category,
        "bbox_mode": BoxMode.XYWH_ABS,
    }
    mask = annotation.get("segmentation")
    if isinstance(mask, dict) and isinstance(mask["counts"], list):
        mask = mask_util.frPyObjects(mask, *mask["size"])
    if mask:
        found["segmentation"] = mask
    if "keypoints" in annotation:
        # COCO's coordinates are pixel indices, whereas detectron2's are points.
        points = annotation["keypoints"]
        found["keypoints"] = [value if place % 3 == 2 else value + 0.5 for place, value in enumerate(points)]
    return found


def _refuse_missing(name: str, coco: Coco, folder: Path) -> None:
    """Raise an exception if images of the data set ``name`` do not exist, and name the file that the first may mean."""
    paths = {image["file_name"]: folder / image["file_name"] for image in coco.images}
    missing = [file_name for file_name, path in paths.items() if not path.is_file()]
    if not missing:
        return
    near = NearFiles(folder, set(paths.values())).find(missing[0])
    remedy = (
        f"there is {near}: correct file_name in the JSON file, or IMAGES"
        if near
        else "restore the images, or set IMAGES to their folder"
    )
    raise FileNotFoundError(
        on_one_line(
            f"data set {name}: {len(missing)} of the {len(paths)} images listed in {coco.path} do not exist; the first"
            f" is {paths[missing[0]]}; {remedy}"
        )
    )


def _size_errors(coco: Coco, folder: Path) -> list[Finding]:
    """Check the size of every image, because detectron2 would stop training at the first image with a wrong size."""

    def look(images: Sequence[Record]) -> Iterator[Finding]:
        for image in images:
            path, said = folder / image["file_name"], (image["width"], image["height"])
            try:
                found = image_size(path)
            except ValueError as error:
                yield Finding("error", coco.path, f"image {image['id']}:", str(error), "")
                continue
            if found != said:
                yield size_fault(path, found, said, coco.path.name)

    parts = [coco.images[begin : begin + TOGETHER] for begin in range(0, len(coco.images), TOGETHER)]
    with ThreadPoolExecutor(READERS) as pool:
        return [*chain.from_iterable(pool.map(lambda part: list(look(part)), parts))]
