"""Finds the detections that COCO's metrics count as correct, for all images and classes at once.

The matching is that of pycocotools. faster-coco-eval matches in C++ and returns only counts, but it stores every IoU,
from which the matching here starts.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCOeval_faster

from mocodet.common.matches import Matches

Rows = Sequence[Mapping[str, Any]]  # annotations or predictions in COCO format
ALMOST_1 = 1 - 1e-10  # the value that pycocotools uses for a threshold of 1


class Grouped(NamedTuple):
    """N objects or detections, sorted by group (a class in an image) and within each group."""

    group: np.ndarray  # N, ascending: class index x I (number of images) + image index
    source: np.ndarray  # N, index of the original row


class Overlaps(NamedTuple):
    """The P pairs of a detection and an object in the same group whose IoU reaches the lowest threshold."""

    detection: np.ndarray  # P, index of the detection
    target: np.ndarray  # P, index of the object
    iou: np.ndarray  # P


def coco_matches(evaluation: COCOeval_faster) -> Matches:
    """Return which detections of a finished evaluation are correct, for all areas and the maximum number per image.

    The detections of a class in an image are matched in order of decreasing score. Each detection is matched to the
    free object with which it overlaps most. If no overlap reaches the threshold, the detection may be matched to a
    crowd (or, for keypoints, to an object without keypoints). It then counts as neither correct nor wrong.
    """
    params, truth = evaluation.params, evaluation.cocoGt
    objects, found = truth.dataset["annotations"], evaluation.cocoDt.dataset["annotations"]
    thresholds, num_images = np.array(params.iouThrs), len(params.imgIds)
    scores = np.array([row["score"] for row in found], dtype=float)
    dt = _group(found, params.imgIds, params.catIds, -scores, params.maxDets[-1])
    gt = _group(objects, params.imgIds, params.catIds, np.zeros(len(objects)), len(objects))
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in objects], dtype=bool)[gt.source]
    ignored, scores = crowd, scores[dt.source]
    if params.iouType == "keypoints":
        ignored = crowd | (np.array([row.get("num_keypoints", 0) for row in objects], dtype=int)[gt.source] == 0)

    right, left_out = match(_overlaps(evaluation, dt, gt), dt.group, crowd, ignored, thresholds)
    category, image = np.divmod(dt.group, num_images)
    order = np.lexsort((np.arange(len(dt.group)), -scores, category))  # ties in the order of the images
    object_category, object_image = np.divmod(gt.group[~ignored], num_images)
    begins = np.arange(len(params.catIds) + 1)
    return Matches(
        metric="coco",
        thresholds=thresholds,
        classes=np.array([truth.cats[number]["name"] for number in params.catIds], dtype=str),
        images=np.array(params.imgIds).astype(str),
        begin=np.searchsorted(category, begins),
        score=scores[order],
        image=image[order],
        right=right[:, order],
        ignored=left_out[:, order],
        objects_begin=np.searchsorted(object_category, begins),
        object_image=object_image,
    )


def match(
    overlaps: Overlaps, group: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match like pycocotools' ``evaluateImg``, but all groups at once: each round matches one detection per group.

    Args:
        overlaps: the pairs, with detections numbered by group and, within each group, by decreasing score.
        group: N, the group of each detection.
        crowd: M, bool: whether the object may be matched any number of times.
        ignored: M, bool: whether detections matched to the object count as neither correct nor wrong. Crowds are
            ignored.
        thresholds: T IoU thresholds.

    Returns:
        T x N, bool: which detections are correct, and which count as neither correct nor wrong.
    """
    right, left_out = (np.zeros((len(thresholds), len(group)), dtype=bool) for _ in range(2))
    taken = np.zeros((len(thresholds), len(ignored)), dtype=bool)
    # A detection prefers objects that count, then the highest IoU, then the last object among ties.
    order = np.lexsort((-overlaps.target, -overlaps.iou, ignored[overlaps.target], overlaps.detection))
    choosing, owner = np.unique(overlaps.detection[order], return_inverse=True)
    rounds = _place_in_run(group[choosing])[owner]
    order = order[np.argsort(rounds, kind="stable")]
    detection, target, iou = (part[order] for part in overlaps)
    for begin, end in pairwise(np.cumsum([0, *np.bincount(rounds)])):
        own = slice(begin, end)
        for at, threshold in enumerate(np.minimum(thresholds, ALMOST_1)):
            free = crowd[target[own]] | ~taken[at, target[own]]
            able = begin + np.flatnonzero(free & (iou[own] >= threshold))
            best = able[np.flatnonzero(np.diff(detection[able], prepend=-1))]
            counts = ~ignored[target[best]]
            taken[at, target[best]] = True
            right[at, detection[best]], left_out[at, detection[best]] = counts, ~counts
    return right, left_out


def _group(rows: Rows, images: Sequence[int], categories: Sequence[int], key: np.ndarray, most: int) -> Grouped:
    """Group the rows of the given images and categories (ascending ids); keep the first ``most`` of each by ``key``."""
    image, category = (np.array([row[name] for row in rows], dtype=int) for name in ("image_id", "category_id"))
    source = np.flatnonzero(np.isin(image, images) & np.isin(category, categories))
    group = np.searchsorted(categories, category[source]) * len(images) + np.searchsorted(images, image[source])
    order = np.lexsort((source, key[source], group))
    order = order[_place_in_run(group[order]) < most]
    return Grouped(group[order], source[order])


def _place_in_run(values: np.ndarray) -> np.ndarray:
    """Number the elements within each run of equal, non-negative values, starting at 0."""
    first = np.flatnonzero(np.diff(values, prepend=-1))
    return np.arange(len(values)) - np.repeat(first, np.diff(first, append=len(values)))


def _overlaps(evaluation: COCOeval_faster, dt: Grouped, gt: Grouped) -> Overlaps:
    params = evaluation.params
    images, categories = ({number: place for place, number in enumerate(ids)} for ids in (params.imgIds, params.catIds))
    tables = {
        categories[category] * len(images) + images[image]: np.asarray(table)  # detections x objects
        for (image, category), table in evaluation.ious.items()
        if len(table)
    }
    groups = np.array(list(tables), dtype=int)
    begins = zip(np.searchsorted(dt.group, groups).tolist(), np.searchsorted(gt.group, groups).tolist(), strict=True)
    lowest, parts = min(params.iouThrs), [(np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0))]
    for table, (detection, target) in zip(tables.values(), begins, strict=True):
        row, column = np.nonzero(table >= lowest)
        parts.append((detection + row, target + column, table[row, column]))
    return Overlaps(*(np.concatenate(part) for part in zip(*parts, strict=True)))
