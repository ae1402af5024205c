"""Pascal VOC's average precision, vectorised, with the same floating-point operations as detectron2's ``voc_eval``."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.evaluation.pascal_voc_evaluation import voc_ap


@dataclass(frozen=True)
class Objects:
    """The objects of one class in a split, grouped by image. Box coordinates start at 1 and include the last pixel."""

    image: np.ndarray  # M, index of the image in the split, ascending
    boxes: np.ndarray  # M x 4, xmin ymin xmax ymax, float64
    difficult: np.ndarray  # M, bool: whether the object is ignored, found or not

    @property
    def num_positives(self) -> int:
        """The number of objects to find."""
        return int(np.count_nonzero(~self.difficult))


@dataclass(frozen=True)
class Detections:
    """The detections of one class in a split, in their original order, with boxes as in `Objects`."""

    image: np.ndarray  # N, index of the image in the split
    boxes: np.ndarray  # N x 4, xmin ymin xmax ymax, float64
    scores: np.ndarray  # N, float64

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "Detections":
        """Create detections from N rows that begin with image index, score, xmin, ymin, xmax, ymax."""
        return cls(rows[:, 0].astype(int), boxes=rows[:, 2:6], scores=rows[:, 1])

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Judgement:
    """Which of the N detections of one class, by decreasing score, are correct at each of T thresholds."""

    scores: np.ndarray  # N
    image: np.ndarray  # N, index of the image in the split
    right: np.ndarray  # T x N, bool
    wrong: np.ndarray  # T x N, bool; a detection of a difficult object is neither right nor wrong


def judge(detections: Detections, objects: Objects, thresholds: Sequence[float]) -> Judgement:
    """Determine which detections of one class are correct (Everingham et al., IJCV 2010, section 4.2).

    Each detection is assigned to the object of its image with which it overlaps most. It is correct if their IoU is
    above the threshold and no detection with a higher score has already been matched to the object. It is ignored if
    the object is difficult, and wrong otherwise. IoUs do not depend on the threshold, so they are computed only once.

    Args:
        detections: the detections of one class.
        objects: the objects of the same class and split.
        thresholds: T IoU thresholds, from 0 to 1.
    """
    order = np.argsort(-detections.scores)  # ties are ordered by NumPy's default sort, as in detectron2
    detections = Detections(detections.image[order], detections.boxes[order], detections.scores[order])
    overlap, place = _most_overlapped(detections, objects)
    judged = [_judge(overlap > threshold, place, objects.difficult) for threshold in thresholds]
    right, wrong = (np.array([pair[part] for pair in judged]) for part in (0, 1))
    return Judgement(detections.scores, detections.image, right, wrong)


def average_precisions(judgement: Judgement, num_positives: int, *, use_07_metric: bool) -> np.ndarray:
    """Compute the AP of one class at each threshold.

    Args:
        judgement: the result of `judge` for the class's detections.
        num_positives: number of objects to find.
        use_07_metric: whether to average the precision over eleven recall values (2007), instead of computing the area
            under the curve (2012).

    Returns:
        T values from 0 to 1. Without objects to find, they are as in detectron2: nan for the 2012 metric if there are
        detections, and 0 otherwise.
    """
    if not num_positives:
        undefined = len(judgement.scores) and not use_07_metric
        return np.full(len(judgement.right), np.nan if undefined else 0.0)
    aps = []
    for right, wrong in zip(judgement.right, judgement.wrong, strict=True):
        true_positives, false_positives = np.cumsum(right, dtype=float), np.cumsum(wrong, dtype=float)
        recall = true_positives / float(num_positives)
        # The first detections may all be matched to difficult objects and therefore be neither right nor wrong.
        precision = true_positives / np.maximum(true_positives + false_positives, np.finfo(np.float64).eps)
        # Precision decreases only at wrong detections, so the area depends only on the points at right detections.
        aps.append(voc_ap(recall[right], precision[right], use_07_metric))
    return np.array(aps)


def _most_overlapped(detections: Detections, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """Return each detection's highest IoU (N) and the object's index (N), or -inf and -1 in images without objects."""
    overlap, place = np.full(len(detections), -np.inf), np.full(len(detections), -1)
    first = np.searchsorted(objects.image, detections.image, side="left")  # N
    count = np.searchsorted(objects.image, detections.image, side="right") - first  # N
    meets = np.flatnonzero(count)  # detections in images with objects
    if not len(meets):
        return overlap, place
    first, count = first[meets], count[meets]
    begin = np.cumsum(count) - count  # index of the first pair of each detection
    detection = np.repeat(np.arange(len(meets)), count)  # P pairs
    candidate = np.arange(len(detection)) + np.repeat(first - begin, count)  # P
    ious = _iou(detections.boxes[meets][detection], objects.boxes[candidate])  # P
    highest = np.maximum.reduceat(ious, begin)
    # Among ties, select the first, as argmax does. NumPy treats nan (two boxes without area) as the maximum.
    reached = np.flatnonzero((ious == highest[detection]) | np.isnan(ious))
    _, leading = np.unique(detection[reached], return_index=True)
    overlap[meets], place[meets] = highest, candidate[reached[leading]]
    return overlap, place


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of P pairs of boxes (P x 4 each). Boxes include their last pixel, hence each + 1."""
    xmin, ymin = np.maximum(others[:, 0], boxes[:, 0]), np.maximum(others[:, 1], boxes[:, 1])
    xmax, ymax = np.minimum(others[:, 2], boxes[:, 2]), np.minimum(others[:, 3], boxes[:, 3])
    intersection = np.maximum(xmax - xmin + 1.0, 0.0) * np.maximum(ymax - ymin + 1.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return intersection / (_area_of(boxes) + _area_of(others) - intersection)


def _area_of(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0] + 1.0) * (boxes[:, 3] - boxes[:, 1] + 1.0)


def _judge(close: np.ndarray, place: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of N detections, by decreasing score, are right and which are wrong; ``close``: IoU > threshold."""
    counted = close.copy()
    counted[close] = ~difficult[place[close]]
    right = np.zeros_like(close)
    claims = np.flatnonzero(counted)
    _, earliest = np.unique(place[claims], return_index=True)
    right[claims[earliest]] = True
    return right, ~close | (counted & ~right)
