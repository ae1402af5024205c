"""What an evaluation found right and wrong, kept in ``matches.npz``: enough for AP anew, over any choice of images.

NumPy alone reads it. What belongs to a task is called ``<task>/...`` there; the tasks are in ``tasks``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import atomic_open

MATCHES_FILE = "matches.npz"
VERSION = 1

# Where a metric reads precision: at these recalls, of which AP is the mean; 2012's AP is the area under the curve.
RECALLS = {"voc2007": np.arange(0.0, 1.1, 0.1), "voc2012": None, "coco": np.linspace(0.0, 1.0, 101)}


@dataclass(frozen=True)
class Matches:
    """The detections of one task on a data set, class after class, each class in the order of its falling scores.

    Attributes:
        metric: ``"voc2007"``, ``"voc2012"`` or ``"coco"``: how AP is made of precision and recall.
        thresholds: T of IoU (of keypoints: OKS), from 0 to 1.
        classes: C names.
        images: I, what the data set calls its images.
        begin: C + 1 places: class c has the detections ``begin[c]`` to ``begin[c + 1]``.
        score: N, float32.
        image: N places in ``images``.
        right: T x N, bool: an object of the class was found, by this detection first.
        ignored: T x N, bool: counts neither way, for it belongs to a difficult object or to a crowd.
        objects_begin: C + 1 places, as ``begin``, in ``object_image``.
        object_image: M places in ``images``: where there is an object to find.
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
        """Compute AP as the evaluation did, with each image counted as often as it is weighted.

        That is the AP of a data set in which the images are really repeated, but for detections of equal scores: here
        the copies of one follow each other, there the copies of an image might.

        Args:
            weights: I x B whole numbers, int32: how often each image occurs in each of B data sets; None: once, in one.

        Returns:
            C x T x B values from 0 to 1; nan where there is no object of the class to find.
        """
        if weights is None:
            weights = np.ones((len(self.images), 1), dtype=np.int32)
        aps = np.empty((len(self.classes), len(self.thresholds), weights.shape[1]))
        for index in range(len(self.classes)):
            objects = self.object_image[self.objects_begin[index] : self.objects_begin[index + 1]]
            aps[index] = self._of_class(index, weights, positives=weights[objects].sum(axis=0))
        return aps

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return ``AP``, ``AP50`` and ``AP75``, means over the classes, B values in per cent each; arguments as above.

        A class without an object to find is left out of the mean; by the 2007 metric, as in detectron2, one that has
        none in the whole data set counts as 0. Without any class there is no mean, but nan.
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
        """Return recall, precision and score at each right detection of a class, R each; none without objects.

        Args:
            index: place of the class.
            threshold: one of ``thresholds``.
        """
        at = int(np.argmin(np.abs(self.thresholds - threshold)))
        own = slice(self.begin[index], self.begin[index + 1])
        right, counted = self.right[at, own], ~self.ignored[at, own]
        objects = self.objects_begin[index + 1] - self.objects_begin[index]
        found = np.cumsum(right)[right]
        return found / max(1, objects), found / np.cumsum(counted)[right], self.score[own][right]

    def _of_class(self, index: int, weights: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """Return T x B AP of a class; ``positives``: B, how many objects there are."""
        own = slice(self.begin[index], self.begin[index + 1])
        right, ignored = self.right[:, own], self.ignored[:, own]
        aps = np.zeros((len(self.thresholds), weights.shape[1]))
        # The curve matters where a detection is right, at some threshold: R of n. A detection that is right w times
        # makes w points of the curve; the last of them has the highest precision and recall.
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
        """Return B APs, of R x B right detections so far and right or wrong ones so far."""
        precision = found / np.maximum(counted, 1)
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]  # the highest at this recall or a higher one
        recall = found / np.maximum(positives, 1)
        recalls = RECALLS[self.metric]
        if recalls is not None:  # the recalls reached at a point first are read off there
            recall = np.searchsorted(recalls, recall, side="right") / len(recalls)
        return (precision * np.diff(recall, axis=0, prepend=0)).sum(axis=0)


def write_matches(path: str | Path, matches: Mapping[str, Matches]) -> None:
    """Write what was found of each task, whole or not at all."""
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
    """Read what ``write_matches`` wrote, by task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these files, or of a later version.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if (version := int(arrays["version"])) != VERSION:
                raise ValueError(f"its version is {version}, this mocodet reads {VERSION}")
            return {task: _read_task(arrays, task) for task in arrays["tasks"].tolist()}
    except Exception as error:  # damaged bytes make an archive and its arrays raise almost anything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} does not hold the matches of an evaluation: {error}") from error


def _read_task(arrays: Mapping[str, np.ndarray], task: str) -> Matches:
    parts = {name: arrays[f"{task}/{name}"] for name in Matches.__dataclass_fields__ if name != "metric"}
    for name in ("right", "ignored"):
        parts[name] = np.unpackbits(parts[name], axis=1, count=len(parts["score"])).astype(bool)
    return Matches(metric=str(arrays[f"{task}/metric"]), **parts)
