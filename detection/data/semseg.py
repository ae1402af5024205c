"""Loads images and label images for semantic segmentation as detectron2 records."""

import logging
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from mocodet.common.formats.findings import log_repairs, refuse_errors
from mocodet.common.formats.labels import (
    LabelledImage,
    Meaning,
    count_labels,
    find_labelled_images,
    join_counts,
    judge_labels,
)

logger = logging.getLogger(__name__)


def load_semseg(name: str, images: str, labels: str, split: str = "", values: tuple[int, ...] = ()) -> list[dict]:
    """Pair the images of a folder with their label images, which have the same name with the extension ``.png``.

    Args:
        name: name of the data set, used in messages.
        images: folder of the images, with any extension that Pillow supports.
        labels: folder of the label images.
        split: file that lists one image per line; if empty, all images in the folder are used.
        values: the value of each class in the label images; if empty, its index.

    Returns:
        detectron2's standard dicts with ``file_name``, ``sem_seg_file_name`` and ``image_id``, and with
        ``label_values`` if ``values`` is not empty.

    Raises:
        FileNotFoundError: a folder or the split file does not exist.
        ValueError: there are no images, an image or its label image is missing, or two images have the same name.
    """
    for key, folder in (("images", images), ("labels", labels)):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"data set {name}: the {key} folder {folder} does not exist")
    if split and not Path(split).is_file():
        known = ", ".join(sorted(file.name for file in Path(split).parent.glob("*.txt"))) or "no .txt file"
        raise FileNotFoundError(f"data set {name}: the split file {split} does not exist; its folder contains {known}")
    found, findings = find_labelled_images(Path(images), Path(labels), Path(split) if split else None)
    refuse_errors(name, findings)
    log_repairs(name, findings, logger)
    more = {"label_values": values} if values else {}
    return [
        {"file_name": str(image.image), "sem_seg_file_name": str(image.labels), "image_id": image.name, **more}
        for image in found
    ]


def check_labels(name: str, records: list[dict], *, learned: bool) -> None:
    """Read and check all label images of a data set from ``MOCO.DATASETS``, divided among the processes.

    Args:
        name: the name of the data set.
        records: the result of `load_semseg`.
        learned: whether a model is trained on the labels, rather than only evaluated.

    Raises:
        ValueError: see `judge_labels`.
    """
    metadata = MetadataCatalog.get(name)
    meaning: Meaning = metadata.meaning
    part = [
        LabelledImage(record["image_id"], Path(record["file_name"]), Path(record["sem_seg_file_name"]))
        for record in records[comm.get_rank() :: comm.get_world_size()]
    ]
    counts = join_counts(comm.all_gather(count_labels(part, meaning)))
    findings = list(judge_labels(counts, Path(metadata.sem_seg_root), meaning, learned=learned))
    refuse_errors(name, findings)
    for finding in findings:
        logger.warning(f"data set {name}: {finding}")
