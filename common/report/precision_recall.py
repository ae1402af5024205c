"""Precision-recall curves from the saved evaluations of a study's trials."""

from collections.abc import Mapping, Sequence

import numpy as np

from mocodet.common.matches import MATCHES_FILE, Matches, read_matches
from mocodet.common.study.tables import TASK_NAMES

from .charts import Axis, Series, line_chart
from .page import Figure, Group
from .read import Study, Trial
from .study_charts import MOST_CLASSES, group_name, most_labels

RECALLS = np.linspace(0, 1, 51)
IOUS = (0.5, 0.75)


def precision_recall(study: Study) -> list[Group]:
    """Draw precision-recall curves for each detector at its largest label fraction, over all classes and per class."""
    groups = []
    for detector, fraction in most_labels(study):
        by_init = {init: _matches(study.finished(detector, fraction, init)) for init in study.inits}
        tasks = dict.fromkeys(task for found in by_init.values() for matches in found for task in matches)
        name = group_name(study, detector, fraction)
        for task in tasks:
            here = {init: [m[task] for m in found if task in m] for init, found in by_init.items()}
            here = {init: found for init, found in here.items() if found}
            overlap = "OKS" if task == "keypoints" else "IoU"
            known = [index for index in range(len(_first(here).classes)) if _objects(_first(here), index)]
            means = [
                _pr_figure(study, here, known, ious, title, f"{name}, {title}, mean over classes")
                for title, ious in _thresholds(_first(here), overlap).items()
            ]
            title = name if len(tasks) == 1 else f"{name}, {TASK_NAMES[task]}"
            groups.append(Group(title, means))
            if 1 < len(known) <= MOST_CLASSES:
                single = [
                    _pr_figure(study, here, [index], IOUS[:1], str(_first(here).classes[index]), f"{name}, class")
                    for index in known
                ]
                groups.append(Group(f"{title}: each class at {overlap} {IOUS[0]}", single, folded=True))
    return groups


def precision_at(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the interpolated precision at `RECALLS`: the highest precision at this or any higher recall, or 0.

    Args:
        recall, precision: values at each right detection, in order of decreasing score.
    """
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return highest[np.searchsorted(recall, RECALLS - 1e-9)]


def _matches(trials: Sequence[Trial]) -> list[dict[str, Matches]]:
    return [read_matches(path) for trial in trials if (path := trial.folder / MATCHES_FILE).is_file()]


def _first(by_init: Mapping[str, Sequence[Matches]]) -> Matches:
    return next(iter(by_init.values()))[0]


def _objects(matches: Matches, index: int) -> int:
    return int(matches.objects_begin[index + 1] - matches.objects_begin[index])


def _thresholds(matches: Matches, overlap: str) -> dict[str, Sequence[float]]:
    """Return the thresholds of the ``overlap`` (IoU or OKS) to draw, keyed by chart title."""
    kept = matches.thresholds.tolist()
    drawn: dict[str, Sequence[float]] = {f"{overlap} {iou:g}": [iou] for iou in IOUS if np.isclose(kept, iou).any()}
    if len(kept) > 1:
        drawn[f"{overlap} {kept[0]:g} to {kept[-1]:g}, mean"] = kept
    return drawn


def _pr_figure(
    study: Study,
    by_init: Mapping[str, Sequence[Matches]],
    indices: Sequence[int],
    ious: Sequence[float],
    title: str,
    spoken: str,
) -> Figure:
    """Draw the mean precision over trials, classes and thresholds, up to the recall at which it drops to 0."""
    series = []
    for init, trials in by_init.items():
        curves = [
            precision_at(*matches.curve(index, iou)[:2]) for matches in trials for index in indices for iou in ious
        ]
        mean = 100 * np.mean(curves, axis=0)
        end = 1 + np.flatnonzero(mean)[-1] if mean.any() else 1
        points = list(zip((100 * RECALLS).tolist(), mean.tolist(), strict=True))[: end + 1]
        series.append(Series(init, points, study.tone(init)))
    hundred = [(value, f"{value}") for value in range(0, 101, 25)]
    across, upwards = (Axis(name, hundred, limits=(0, 100)) for name in ("recall, %", "precision, %"))
    return Figure(title, line_chart(f"Precision over recall: {spoken}, {title}", series, across, upwards))
