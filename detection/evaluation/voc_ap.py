"""Pascal VOC's average precision, vectorised, with the same floating-point operations as detectron2's ``voc_eval``."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.evaluation.pascal_voc_evaluation import voc_ap


@dataclass(frozen=True)
class Objects:
    """The objects of one class in a split, grouped by image; boxes count pixels from 1 and include the last one."""

    image: np.ndarray  # M, index of the image in the split, ascending
    boxes: np.ndarray  # M x 4, xmin ymin xmax ymax, float64
    difficult: np.ndarray  # M, bool: these count neither way, found or not

    @property
    def num_positives(self) -> int:
        """The number of objects to find."""
        return int(np.count_nonzero(~self.difficult))


@dataclass(frozen=True)
class Detections:
    """The detections of one class in a split, in their original order; boxes as in `Objects`."""

    image: np.ndarray  # N, index of the image in the split
    boxes: np.ndarray  # N x 4, xmin ymin xmax ymax, float64
    scores: np.ndarray  # N, float64

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "Detections":
        """Make them from N rows that begin with the index of the image, score, xmin, ymin, xmax, ymax."""
        return cls(rows[:, 0].astype(int), boxes=rows[:, 2:6], scores=rows[:, 1])

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Judgement:
    """Which of the N detections of one class, by decreasing score, are right at each of T thresholds."""

    scores: np.ndarray  # N
    image: np.ndarray  # N, index of the image in the split
    right: np.ndarray  # T x N, bool
    wrong: np.ndarray  # T x N, bool; a detection of a difficult object is neither right nor wrong


def judge(detections: Detections, objects: Objects, thresholds: Sequence[float]) -> Judgement:
    """Judge which detections of one class are right (Everingham et al., IJCV 2010, section 4.2).

    A detection belongs to the object of its image that it overlaps most. It is right if their IoU is above the
    threshold and no detection with a higher score has taken the object. It is left out if the object is difficult, and
    wrong otherwise. IoUs do not depend on the threshold, so they are computed once.

    Args:
        detections: of one class.
        objects: of the same class and split.
        thresholds: T, of IoU, from 0 to 1.
    """
    order = np.argsort(-detections.scores)  # ties as numpy's default sort leaves them, as in detectron2
    detections = Detections(detections.image[order], detections.boxes[order], detections.scores[order])
    overlap, place = _most_overlapped(detections, objects)
    judged = [_judge(overlap > threshold, place, objects.difficult) for threshold in thresholds]
    right, wrong = (np.array([pair[part] for pair in judged]) for part in (0, 1))
    return Judgement(detections.scores, detections.image, right, wrong)


def average_precisions(judgement: Judgement, num_positives: int, *, use_07_metric: bool) -> np.ndarray:
    """Compute the AP of one class at each threshold.

    Args:
        judgement: of the class's detections.
        num_positives: number of objects to find.
        use_07_metric: precision averaged over eleven recalls (2007) rather than the area under the curve (2012).

    Returns:
        T values from 0 to 1. Without objects to find they are as in detectron2: nan if there are detections and the
        metric is the 2012 one, else 0.
    """
    if not num_positives:
        undefined = len(judgement.scores) and not use_07_metric
        return np.full(len(judgement.right), np.nan if undefined else 0.0)
    aps = []
    for right, wrong in zip(judgement.right, judgement.wrong, strict=True):
        true_positives, false_positives = np.cumsum(right, dtype=float), np.cumsum(wrong, dtype=float)
        recall = true_positives / float(num_positives)
        # The first detections may all belong to difficult objects: neither right nor wrong.
        precision = true_positives / np.maximum(true_positives + false_positives, np.finfo(np.float64).eps)
        # Precision falls only at wrong detections, so only the points at right detections matter for the area.
        aps.append(voc_ap(recall[right], precision[right], use_07_metric))
    return np.array(aps)


def _most_overlapped(detections: Detections, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """Return each detection's highest IoU (N) and its object's index (N); -inf and -1 in images without objects."""
    overlap, place = np.full(len(detections), -np.inf), np.full(len(detections), -1)
    first = np.searchsorted(objects.image, detections.image, side="left")  # N
    count = np.searchsorted(objects.image, detections.image, side="right") - first  # N
    meets = np.flatnonzero(count)  # detections in images with objects
    if not len(meets):
        return overlap, place
    first, count = first[meets], count[meets]
    begin = np.cumsum(count) - count  # where the pairs of each detection begin
    detection = np.repeat(np.arange(len(meets)), count)  # P pairs
    candidate = np.arange(len(detection)) + np.repeat(first - begin, count)  # P
    ious = _iou(detections.boxes[meets][detection], objects.boxes[candidate])  # P
    highest = np.maximum.reduceat(ious, begin)
    # Of equal ones the first, as in argmax; numpy takes a nan (two boxes without area) for the highest.
    reached = np.flatnonzero((ious == highest[detection]) | np.isnan(ious))
    _, leading = np.unique(detection[reached], return_index=True)
    overlap[meets], place[meets] = highest, candidate[reached[leading]]
    return overlap, place


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of P x 4 with P x 4 boxes. They include their last pixel, hence each + 1."""
    xmin, ymin = np.maximum(others[:, 0], boxes[:, 0]), np.maximum(others[:, 1], boxes[:, 1])
    xmax, ymax = np.minimum(others[:, 2], boxes[:, 2]), np.minimum(others[:, 3], boxes[:, 3])
    intersection = np.maximum(xmax - xmin + 1.0, 0.0) * np.maximum(ymax - ymin + 1.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return intersection / (_area_of(boxes) + _area_of(others) - intersection)


def _area_of(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0] + 1.0) * (boxes[:, 3] - boxes[:, 1] + 1.0)


def _judge(close: np.ndarray, place: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of N detections, by decreasing score, are right and which wrong; ``close``: IoU above threshold."""
    counted = close.copy()
    counted[close] = ~difficult[place[close]]
    right = np.zeros_like(close)
    claims = np.flatnonzero(counted)
    _, earliest = np.unique(place[claims], return_index=True)
    right[claims[earliest]] = True
    return right, ~close | (counted & ~right)
