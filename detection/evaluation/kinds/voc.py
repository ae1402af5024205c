"""Pascal VOC's AP, computed in one pass, overall and for each class."""

import itertools
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from mocodet.common.formats.findings import refuse_errors
from mocodet.common.formats.hold_out import HoldOut
from mocodet.common.formats.voc_folder import VocFolder, read_split
from mocodet.common.matches import Matches

from ..complete import format_results
from ..things import Thing
from ..voc_ap import Detections, Judgement, Objects, average_precisions, judge
from ..voc_files import read_detections, write_detections
from . import EvaluationKind, Results, register_kind

logger = logging.getLogger(__name__)

IOU_THRESHOLDS = range(50, 100, 5)  # per cent


@dataclass(frozen=True)
class GroundTruth:
    """The images of a split, in order, and the objects of each class in them."""

    images: Sequence[str]
    objects: Mapping[str, Objects]  # by class, in the order of the classes

    @property
    def absent(self) -> list[str]:
        """The classes without objects to find (no objects, or only difficult ones)."""
        return [name for name, objects in self.objects.items() if not objects.num_positives]


class VOCEvaluator(DatasetEvaluator):
    """Pascal VOC's evaluation, faster than detectron2's ``PascalVOCDetectionEvaluator`` and with identical results.

    It reads the ground truth once, computes each IoU once for all thresholds, reports the AP of each class, and saves
    the detections. As in detectron2, a class without ground truth (no objects, or only difficult ones) counts as AP 0
    in the 2007 metric and makes the mean nan in the 2012 metric. A warning lists these classes and reports the mean
    over the others.

    Args:
        dataset_name: a data set whose metadata has ``dirname``, ``split``, ``year`` and ``thing_classes``.
        output_dir: folder for one file of detections per class. If None, nothing is written.

    Raises:
        ValueError: ``year`` is neither 2007 nor 2012.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        self._dataset_name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.year not in (2007, 2012):
            raise ValueError(
                f"data set {dataset_name}: year selects the definition of AP and must be 2007 or 2012, got"
                f" {self._metadata.year}"
            )
        self._class_names: Sequence[str] = self._metadata.thing_classes
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        """Clear the recorded detections."""
        self._tables: list[np.ndarray] = []  # one per image, see `_table`
        self._judgements: dict[str, Judgement] = {}  # of the last evaluation, by class

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Record the detections of a batch, rounded as detectron2 rounds them when writing them to text files.

        Raises:
            ValueError: an image is not in the split, or a class is not in the data set.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if image["image_id"] not in self._places:
                raise ValueError(
                    f"image {image['image_id']} is not in the split {self._metadata.split} of {self._dataset_name}"
                )
            found = output["instances"]
            if len(found) and found.pred_classes.max() >= len(self._class_names):
                raise ValueError(
                    f"the model predicts class {found.pred_classes.max()}, but {self._dataset_name} has only"
                    f" {len(self._class_names)} classes, numbered from 0"
                )
            self._tables.append(_table(self._places[image["image_id"]], found))

    def evaluate(self) -> Results | None:
        """Return ``{"bbox": {"AP", "AP50", "AP75", "AP-<class>", "AP50-<class>"}}`` in per cent on the main process.

        Raises:
            RuntimeError: the split has no ground truth.
        """
        gathered = comm.gather(self._tables, dst=0)
        if not comm.is_main_process():
            return None
        rows = np.concatenate([np.empty((0, 7)), *itertools.chain.from_iterable(gathered)])
        names = self._class_names
        detections = {name: Detections.from_rows(rows[rows[:, 6] == index]) for index, name in enumerate(names)}
        if self._output_dir:
            write_detections(self._output_dir, self._ground_truth.images, detections)
        return self._evaluate(detections)

    def evaluate_saved(self, folder: str | Path) -> tuple[Results, int]:
        """Evaluate a folder with one file per class; see `EvaluationKind`.

        Raises:
            RuntimeError: also if the split has no ground truth.
        """
        detections = read_detections(folder, self._ground_truth.images, self._class_names)
        return self._evaluate(detections), sum(map(len, detections.values()))

    def matches(self) -> dict[str, Matches]:
        """Return which detections were correct in the last evaluation on this process; see `EvaluationKind`."""
        judged, truth = list(self._judgements.values()), self._ground_truth
        places = [objects.image[~objects.difficult] for objects in truth.objects.values()]
        right = np.concatenate([of.right for of in judged], axis=1)
        found = Matches(
            metric=f"voc{self._metadata.year}",
            thresholds=np.array(IOU_THRESHOLDS) / 100,
            classes=np.array(self._class_names),
            images=np.array(truth.images),
            begin=np.cumsum([0, *(len(of.scores) for of in judged)]),
            score=np.concatenate([of.scores for of in judged]),
            image=np.concatenate([of.image for of in judged]),
            right=right,
            ignored=~(right | np.concatenate([of.wrong for of in judged], axis=1)),
            objects_begin=np.cumsum([0, *map(len, places)]),
            object_image=np.concatenate(places),
        )
        return {"bbox": found}

    @cached_property
    def _ground_truth(self) -> GroundTruth:
        return _ground_truth_of(self._metadata)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {image: place for place, image in enumerate(_names_of(self._metadata))}

    def _evaluate(self, detections: Mapping[str, Detections]) -> Results:
        truth, is_2007 = self._ground_truth, self._metadata.year == 2007
        if len(truth.absent) == len(truth.objects):
            raise RuntimeError(f"{self._dataset_name} has no ground truth in its {len(truth.images)} images")
        thresholds = [iou / 100 for iou in IOU_THRESHOLDS]
        self._judgements = {name: judge(found, truth.objects[name], thresholds) for name, found in detections.items()}
        aps = {  # AP of each class at each threshold, in per cent
            name: average_precisions(judged, truth.objects[name].num_positives, use_07_metric=is_2007) * 100
            for name, judged in self._judgements.items()
        }
        bbox = _means(list(aps.values()))
        for name, values in aps.items():
            of_class = _means([values])
            bbox[f"AP-{name}"], bbox[f"AP50-{name}"] = of_class["AP"], of_class["AP50"]
        results = OrderedDict(bbox=bbox)
        table = format_results(results, {name: {"objects": of.num_positives} for name, of in truth.objects.items()})
        logger.info(f"Results on {self._dataset_name} ({2007 if is_2007 else 2012} metric), {table}")
        if truth.absent:
            others = _means([values for name, values in aps.items() if name not in truth.absent])
            logger.warning(
                f"No ground truth in {self._dataset_name} for {', '.join(truth.absent)}:"
                f" {'the 2007 metric counts them as AP 0' if is_2007 else 'the 2012 metric is undefined for them'}."
                f" The means over the other {len(aps) - len(truth.absent)} classes are"
                f" {', '.join(f'{metric} {value:.2f}' for metric, value in others.items())}"
            )
        return results


def _table(place: int, instances: Instances) -> np.ndarray:
    """Return n x 7: image index, score, xmin, ymin, xmax, ymax (in VOC's pixels, which start at 1) and class.

    Rounding float32 values in float64 gives the same numbers as parsing the decimal text.
    """
    boxes = instances.pred_boxes.tensor.float().cpu().numpy().copy()
    boxes[:, :2] += 1  # inverts the shift applied when the data is read
    scores, classes = instances.scores.double().cpu().numpy(), instances.pred_classes.cpu().numpy()
    rounded = np.round(scores, 3), np.round(boxes.astype(np.float64), 1)
    return np.column_stack([np.full(len(scores), place), *rounded, classes])


def _means(aps: Sequence[np.ndarray]) -> dict[str, float]:
    """Average AP values (classes x thresholds), first over the classes, in detectron2's order of operations."""
    means = {iou: np.mean([values[column] for values in aps]) for column, iou in enumerate(IOU_THRESHOLDS)}
    return {"AP": float(np.mean(list(means.values()))), "AP50": float(means[50]), "AP75": float(means[75])}


def _names_of(metadata: Metadata) -> list[str]:
    return VocFolder(metadata.dirname).find_names(metadata.split, metadata.get("hold_out"))[0]


def _ground_truth_of(metadata: Metadata) -> GroundTruth:
    return read_ground_truth(metadata.dirname, metadata.split, metadata.thing_classes, metadata.get("hold_out"))


def read_ground_truth(
    root: str, split: str, class_names: Sequence[str], hold_out: HoldOut | None = None
) -> GroundTruth:
    """Read the annotations of a split (`VocFolder.find_names`). Objects of other classes are ignored.

    Raises:
        FileNotFoundError: the split does not exist.
        ValueError: an annotation is missing or malformed.
    """
    found = read_split(VocFolder(root), split, class_names, hold_out)
    refuse_errors(root, found.findings)
    rows: dict[str, list[list[float]]] = {name: [] for name in class_names}
    for place, image in enumerate(found.images):
        for one in image.annotation.objects:
            rows[one.name].append([place, *one.box, one.difficult])
    tables = {name: np.array(of, dtype=float).reshape(-1, 6) for name, of in rows.items()}
    return GroundTruth(
        [image.name for image in found.images],
        {name: Objects(t[:, 0].astype(int), t[:, 1:5], t[:, 5].astype(bool)) for name, t in tables.items()},
    )


def check_voc_ground_truth(cfg: CfgNode, dataset_name: str) -> None:
    """Check that the AP on a data set will be a number.

    Classes without ground truth (no objects, or only difficult ones) make the mean of the 2012 metric nan. In the mean
    of the 2007 metric, they count as 0, and a warning is logged.

    Raises:
        FileNotFoundError: the split does not exist.
        ValueError: annotations are missing or malformed, no class has ground truth, or some class has no ground truth
            and the data set's year selects the 2012 metric.
    """
    metadata = MetadataCatalog.get(dataset_name)
    truth = _ground_truth_of(metadata)
    if not truth.absent:
        return
    names = ", ".join(truth.absent)
    if len(truth.absent) == len(truth.objects):
        raise ValueError(
            f"data set {dataset_name} has no ground truth: its {len(truth.images)} images contain no objects of {names}"
            " that are not marked difficult"
        )
    if metadata.year != 2007:
        raise ValueError(
            f"data set {dataset_name} has no ground truth for {names} (objects marked difficult do not count), so the"
            " mean AP of the 2012 metric would not be a number; remove these classes, evaluate on a split that contains"
            " them, or set YEAR 2007, which counts them as 0"
        )
    logger.warning(
        f"No ground truth in {dataset_name} for {names}: the 2007 metric counts these classes as AP 0, including in its"
        " mean"
    )


def _read(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    images = _names_of(metadata)
    things = defaultdict(list)
    for category, found in enumerate(read_detections(path, images, metadata.thing_classes).values()):
        for place, box, score in zip(found.image, found.boxes, found.scores, strict=True):
            corners = (*(box[:2] - 1), *box[2:])  # VOC counts pixels from 1 and includes the last pixel
            things[images[place]].append(Thing(category, box=corners, score=float(score)))
    return things


register_kind(
    EvaluationKind(
        "pascal_voc",
        build=lambda cfg, name, tasks, output: VOCEvaluator(name, output),
        check=check_voc_ground_truth,
        evaluate_saved=VOCEvaluator.evaluate_saved,
        matches=VOCEvaluator.matches,
        read=_read,
    )
)
