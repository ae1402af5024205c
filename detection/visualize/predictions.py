"""What a run predicted and left on disk, and the ground truth beside it, in one form for both: things to draw."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import BoxMode

from mocodet.common.text import first_few

from ..data.semseg import SEM_SEG_TYPES, read_labels
from ..data.voc import read_split
from ..evaluation.build import predictions_folder
from ..evaluation.coco_results import read_results
from ..evaluation.lvis import RESULTS as LVIS_RESULTS
from ..evaluation.semseg_results import read_regions
from ..evaluation.voc_files import read_detections

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thing:
    """An object or, of semantic segmentation, all pixels of a class."""

    category: int  # index into the names of the classes
    box: Sequence[float] | None = None  # x0 y0 x1 y1 in pixels
    score: float | None = None  # None for ground truth
    mask: Any = None  # polygons, H x W of 0 and 1, or run-length encoded as COCO's
    keypoints: np.ndarray | None = None  # K x 3: x, y, visibility or score
    crowd: bool = False


@dataclass(frozen=True)
class Run:
    """A run's name and its predictions by the keys of the images; an image without any may be absent."""

    name: str
    things: Mapping[str, list[Thing]] = field(repr=False)

    @property
    def has_scores(self) -> bool:
        """Whether there are objects with scores, not pixels, which have none."""
        return any(thing.score is not None for things in self.things.values() for thing in things)

    def above(self, key: str, threshold: float) -> list[Thing]:
        """Return what was predicted in an image with at least this score, and what has no score."""
        return [thing for thing in self.things.get(key, []) if thing.score is None or thing.score >= threshold]


def image_key(record: Mapping[str, Any]) -> str:
    """Name the image of a record: its ``image_id``, or its file's name without suffix where it has none."""
    return str(record.get("image_id", Path(record["file_name"]).stem))


def class_names(dataset_name: str) -> Sequence[str]:
    """Return the names of what is predicted on a data set."""
    metadata = MetadataCatalog.get(dataset_name)
    is_semantic = metadata.get("evaluator_type") in SEM_SEG_TYPES
    return metadata.stuff_classes if is_semantic else metadata.thing_classes


def ground_truth(record: Mapping[str, Any], dataset_name: str) -> list[Thing]:
    """Return what there is to be seen in an image.

    Args:
        record: detectron2's standard dict, with ``annotations`` or ``sem_seg_file_name``.
        dataset_name: the data set that it is of.

    Raises:
        FileNotFoundError, ValueError: the label image is missing or malformed.
    """
    if "sem_seg_file_name" in record and "annotations" not in record:
        classes, ignored = len(class_names(dataset_name)), MetadataCatalog.get(dataset_name).get("ignore_label", 255)
        labels = read_labels(record["sem_seg_file_name"], classes, ignored)
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


def read_run(name: str, path: str | Path, dataset_name: str, records: Sequence[Mapping[str, Any]]) -> Run:
    """Read the predictions of a run.

    Args:
        name: what to call it.
        path: the file or the folder of predictions (``inference/<data set>``), or the run's ``OUTPUT_DIR``.
        dataset_name: the data set that they are on.
        records: its images.

    Raises:
        FileNotFoundError: there are no predictions.
        ValueError: they are malformed or not of this data set, or are none that runs keep.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in READERS:
        raise ValueError(
            f"data set {dataset_name} is evaluated as {kind!r}, of which runs keep no predictions to draw; they do of"
            f" {', '.join(READERS)}"
        )
    things = READERS[kind](predictions_folder(path, dataset_name), metadata, records)
    if not any(things.values()):
        logger.warning(f"{name}: {path} holds no prediction at all")
    return Run(name, things)


def _read_coco(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    return _read_results(path, json.loads(Path(metadata.json_file).read_text(encoding="utf-8")))


def _read_results(path: Path, dataset: Mapping[str, Any]) -> dict[str, list[Thing]]:
    # In the order of their ids, as detectron2 numbers the categories of COCO and of LVIS.
    indices = {id_: index for index, id_ in enumerate(sorted(category["id"] for category in dataset["categories"]))}
    things = defaultdict(list)
    for result in read_results(path, dataset):
        keypoints = np.reshape(result["keypoints"], (-1, 3)).astype(float) if "keypoints" in result else None
        if keypoints is not None:
            keypoints[:, :2] += 0.5  # COCO's are indices of pixels, detectron2's are points
        box = result.get("bbox")
        things[str(result["image_id"])].append(
            Thing(
                category=indices[result["category_id"]],
                box=None if box is None else BoxMode.convert(list(box), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
                score=result["score"],
                mask=result.get("segmentation"),
                keypoints=keypoints,
            )
        )
    return things


def _read_lvis(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    return _read_coco(path / LVIS_RESULTS if path.is_dir() else path, metadata, records)


def _read_cityscapes(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    images = [{"id": record["image_id"], "height": record["height"], "width": record["width"]} for record in records]
    categories = [{"id": index} for index in range(len(metadata.thing_classes))]
    return _read_results(path, {"images": images, "categories": categories})


def _read_voc(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    images = read_split(metadata.dirname, metadata.split)
    things = defaultdict(list)
    for category, found in enumerate(read_detections(path, images, metadata.thing_classes).values()):
        for place, box, score in zip(found.image, found.boxes, found.scores, strict=True):
            corners = (*(box[:2] - 1), *box[2:])  # VOC counts pixels from 1 and includes the last one
            things[images[place]].append(Thing(category, box=corners, score=float(score)))
    return things


def _read_sem_seg(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    keys = {record["file_name"]: image_key(record) for record in records}
    regions = read_regions(path, metadata, keys)
    return {keys[file]: [Thing(index, mask=mask) for index, mask in found] for file, found in regions.items()}


# By the evaluator_type of the data set.
READERS: dict[str, Callable[[Path, Metadata, Sequence[Mapping[str, Any]]], dict[str, list[Thing]]]] = {
    "coco": _read_coco,
    "lvis": _read_lvis,
    "pascal_voc": _read_voc,
    "cityscapes_instance": _read_cityscapes,
    "sem_seg": _read_sem_seg,
    "cityscapes_sem_seg": _read_sem_seg,
}


def index_records(records: Sequence[dict[str, Any]], dataset_name: str) -> dict[str, dict[str, Any]]:
    """Return the records by the keys of their images.

    Raises:
        ValueError: two images have the same key.
    """
    by_key = {image_key(record): record for record in records}
    if len(by_key) < len(records):
        repeated = [key for key, count in Counter(map(image_key, records)).items() if count > 1]
        raise ValueError(f"data set {dataset_name} has several images of the name {first_few(repeated)}")
    return by_key
