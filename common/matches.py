"""Stores which detections of an evaluation are correct, which suffices to compute AP over any selection of images.

Reading the file, ``matches.npz``, requires only NumPy. The array ``tasks`` lists the tasks of the evaluation, and the
arrays of each task are named ``<task>/...``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import atomic_open

MATCHES_FILE = "matches.npz"
VERSION = 1

# The recalls at which a metric samples precision; AP is the mean over them. AP of VOC 2012 is the area under the curve.
RECALLS = {"voc2007": np.arange(0.0, 1.1, 0.1), "voc2012": None, "coco": np.linspace(0.0, 1.0, 101)}


@dataclass(frozen=True)
class Matches:
    """The detections of one task on a data set, grouped by class and sorted by descending score within each class.

    Attributes:
        metric: ``"voc2007"``, ``"voc2012"`` or ``"coco"``, which determines how AP is computed from precision and
            recall.
        thresholds: T IoU thresholds (OKS thresholds for keypoints), from 0 to 1.
        classes: the names of the C classes.
        images: the names of the I images in the data set.
        begin: C + 1 indices; class c has the detections from ``begin[c]`` up to but not including ``begin[c + 1]``.
        score: N scores, float32.
        image: N indices into ``images``.
        right: T x N, bool; whether a detection is the first to find its object.
        ignored: T x N, bool; whether a detection is not counted, because it matches a difficult object or a crowd.
        objects_begin: C + 1 indices into ``object_image``, like ``begin``.
        object_image: M indices into ``images``, one for each object to find.
    """

    metric: str
    thresholds: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    begin: np.ndarray
    score: np.ndarray
    image: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects_begin: np.ndarray
    object_image: np.ndarray

    def average_precisions(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Compute AP in the same way as the evaluation, but count each image as often as its weight specifies.

        The result is the AP of a data set with repeated images, except for the order of detections with equal scores:
        here, the copies of each detection are adjacent, whereas in such a data set the copies of an image may be.

        Args:
            weights: I x B, int32; how often each image occurs in each of B data sets. If None, there is a single data
                set in which each image occurs once.

        Returns:
            C x T x B values from 0 to 1, or nan for a class without objects to find.
        """
        if weights is None:
            weights = np.ones((len(self.images), 1), dtype=np.int32)
        aps = np.empty((len(self.classes), len(self.thresholds), weights.shape[1]))
        for index in range(len(self.classes)):
            objects = self.object_image[self.objects_begin[index] : self.objects_begin[index + 1]]
            aps[index] = self._of_class(index, weights, positives=weights[objects].sum(axis=0))
        return aps

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return ``AP``, ``AP50`` and ``AP75`` as means over the classes, in per cent, with B values each.

        The argument is described in `average_precisions`. A class without objects to find is excluded from the mean.
        With the 2007 metric, as in detectron2, a class without any objects in the data set counts as 0. If no class
        remains, the mean is nan.
        """
        aps = self.average_precisions(weights) * 100
        if self.metric == "voc2007":
            aps[np.diff(self.objects_begin) == 0] = 0.0
        known = ~np.isnan(aps)
        with np.errstate(invalid="ignore"):
            means = np.where(known, aps, 0.0).sum(axis=0) / known.sum(axis=0)  # T x B
        at = {"AP50": 0.5, "AP75": 0.75}
        singles = {name: means[np.isclose(self.thresholds, threshold)][0] for name, threshold in at.items()}
        return {"AP": means.mean(axis=0), **singles}

    def curve(self, index: int, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the recall, precision and score at each of the R correct detections of a class.

        The three arrays are empty for a class without objects.

        Args:
            index: the index of the class.
            threshold: one of ``thresholds``.
        """
        at = int(np.argmin(np.abs(self.thresholds - threshold)))
        own = slice(self.begin[index], self.begin[index + 1])
        right, counted = self.right[at, own], ~self.ignored[at, own]
        objects = self.objects_begin[index + 1] - self.objects_begin[index]
        found = np.cumsum(right)[right]
        return found / max(1, objects), found / np.cumsum(counted)[right], self.score[own][right]

    def _of_class(self, index: int, weights: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """Return the T x B AP values of a class; ``positives`` contains the B numbers of objects."""
        own = slice(self.begin[index], self.begin[index + 1])
        right, ignored = self.right[:, own], self.ignored[:, own]
        aps = np.zeros((len(self.thresholds), weights.shape[1]))
        # Only the R of n detections that are correct at some threshold affect the curve. A detection that is correct w
        # times contributes w points to the curve, of which the last has the highest precision and recall.
        points = np.flatnonzero(right.any(axis=0))
        if len(points):
            end = points[-1] + 1
            repeats = weights[self.image[own][:end]]  # n x B
            passed = np.cumsum(np.add.reduceat(repeats, np.append(0, points[:-1] + 1), axis=0), axis=0)  # R x B
            for at in range(len(self.thresholds)):
                chosen = right[at, points]
                found = np.cumsum(repeats[points[chosen]], axis=0)
                counted = passed[chosen]
                if len(skipped := np.flatnonzero(ignored[at, :end])):
                    before = np.cumsum(repeats[skipped], axis=0)
                    before = np.concatenate([np.zeros_like(before[:1]), before])
                    counted = counted - before[np.searchsorted(skipped, points[chosen])]
                aps[at] = self._area(found, counted, positives)
        return np.where(positives > 0, aps, np.nan)

    def _area(self, found: np.ndarray, counted: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """Return B AP values from the R x B cumulative counts of correct detections and of all counted detections."""
        precision = found / np.maximum(counted, 1)
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]  # the highest at this recall or above
        recall = found / np.maximum(positives, 1)
        recalls = RECALLS[self.metric]
        if recalls is not None:  # precision is read at the first point that reaches each recall
            recall = np.searchsorted(recalls, recall, side="right") / len(recalls)
        return (precision * np.diff(recall, axis=0, prepend=0)).sum(axis=0)


def write_matches(path: str | Path, matches: Mapping[str, Matches]) -> None:
    """Write the matches of each task to a file atomically."""
    arrays: dict[str, Any] = {"version": np.array(VERSION), "tasks": np.array(list(matches), dtype=str)}
    for task, found in matches.items():
        parts = {
            **vars(found),
            "score": found.score.astype(np.float32),
            "image": found.image.astype(np.int32),
            "right": np.packbits(found.right, axis=1),
            "ignored": np.packbits(found.ignored, axis=1),
            "object_image": found.object_image.astype(np.int32),
        }
        arrays.update({f"{task}/{name}": np.asarray(part) for name, part in parts.items()})
    with atomic_open(path) as handle:
        np.savez_compressed(handle, **arrays)


def read_matches(path: str | Path) -> dict[str, Matches]:
    """Read a file written by `write_matches` and return the matches by task.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not contain matches, or has another version.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if (version := int(arrays["version"])) != VERSION:
                raise ValueError(f"its version is {version}, but this mocodet reads version {VERSION}")
            return {task: _read_task(arrays, task) for task in arrays["tasks"].tolist()}
    except Exception as error:  # damaged archives and arrays raise almost any error
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} does not contain the matches of an evaluation: {error}") from error


def _read_task(arrays: Mapping[str, np.ndarray], task: str) -> Matches:
    parts = {name: arrays[f"{task}/{name}"] for name in Matches.__dataclass_fields__ if name != "metric"}
    for name in ("right", "ignored"):
        parts[name] = np.unpackbits(parts[name], axis=1, count=len(parts["score"])).astype(bool)
    return Matches(metric=str(arrays[f"{task}/metric"]), **parts)
