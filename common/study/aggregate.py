"""Aggregation of single trials into the rows of a study: means, standard deviations and gaps."""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mocodet.common.config.bases import read_settings
from mocodet.common.files import read_json_lines
from mocodet.common.nested import look_up

from .statistics import Gap, deviation, paired_gap
from .trials import percent

Results = dict[str, float]  # for example {"bbox/AP": 54.6, "bbox/AP50": 81.1, "bbox/AP75": 59.9}

AP_METRICS = ("AP50", "AP", "AP75")  # in the order of the paper's tables
TASKS: dict[str, tuple[str, ...]] = {
    "bbox": AP_METRICS,
    "segm": AP_METRICS,
    "keypoints": AP_METRICS,
    "densepose_gps": AP_METRICS,
    "sem_seg": ("mIoU",),
}
KEYS = tuple(f"{task}/{metric}" for task, metrics in TASKS.items() for metric in metrics)
MAY_LACK = {"segm/AP75"}  # the Cityscapes evaluation does not compute this metric


def is_number(value: Any) -> bool:
    """Return whether a value from JSON is a finite number."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def read_max_iter(config: Path) -> int:
    """Return the number of iterations of a training run from its saved ``config.yaml``.

    Raises:
        OSError, ValueError: the file cannot be read or does not specify the number.
    """
    found = look_up(read_settings(config).content, "SOLVER.MAX_ITER")
    if type(found) is not int:
        raise ValueError(f"{config}: expected a number of iterations in SOLVER.MAX_ITER, found {found!r:.60}")
    return found


def read_metrics(folder: str | Path) -> Results:
    """Read the metrics of a finished training run from the ``metrics.json`` that detectron2 writes.

    The value of each metric is read from the last line that contains it. That line must have been written at the end of
    training: scores logged during training do not count as final results. If the last line of the file is incomplete
    because writing was interrupted, it is skipped.

    Args:
        folder: ``OUTPUT_DIR`` of the run, which contains ``metrics.json`` and ``config.yaml``.

    Returns:
        the metrics of the evaluated `TASKS`, such as ``bbox/AP50`` or ``sem_seg/mIoU``, in per cent.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the config or a line is damaged, no task was evaluated at the end, a task lacks one of its metrics,
            or a value is not finite.
    """
    path, config = Path(folder, "metrics.json"), Path(folder, "config.yaml")
    max_iter = read_max_iter(config)
    last: dict[str, tuple[int, float]] = {}
    for record in read_json_lines(path):
        present = [key for key in KEYS if key in record]
        for key in present and ("iteration", *present):
            if type(record.get(key)) not in (int, float):
                raise ValueError(
                    f"{path}: expected a number for {key} in a line with {present[0]}, found {record.get(key)!r:.60}"
                )
        last.update({key: (record["iteration"], record[key]) for key in present})

    results: Results = {}
    for task, metrics in TASKS.items():
        keys = [f"{task}/{metric}" for metric in metrics]
        present = [key for key in keys if key in last]
        if lacking := [key for key in keys if present and key not in {*present, *MAY_LACK}]:
            raise ValueError(f"{path} contains {', '.join(present)}, but not {', '.join(lacking)}")
        for key in present:
            iteration, value = last[key]
            # Hooks that run after the last step log at MAX_ITER, whereas the step itself logs at MAX_ITER - 1.
            if iteration < max_iter - 1:
                raise ValueError(
                    f"{path}: the last {key} was logged at iteration {iteration}, but the run has {max_iter} iterations"
                )
            if not is_number(value):
                raise ValueError(
                    f"{path}: expected a finite number for {key} at iteration {iteration}, found {value!r:.60}"
                )
            results[key] = float(value)
    if not results:
        raise ValueError(f"{path} contains no task metrics; expected the metrics of at least one of {', '.join(TASKS)}")
    return results


@dataclass(frozen=True)
class Cell:
    """Statistics of one metric over the trials of an initialisation."""

    mean: float
    deviation: float | None  # sample standard deviation (n - 1); None for a single trial
    gap: Gap | None  # to the reference; None for the reference itself, or if there are no pairs


@dataclass(frozen=True)
class Row:
    """One row of a study's table.

    Attributes:
        detector, init, fraction: detector, initialisation and label fraction of the trials.
        reference: initialisation that the gaps refer to.
        n_trials: number of finished trials.
        n_failed, n_left: number of failed trials, and of trials that have not ended. Means and pairs exclude both.
        metrics: metrics of the finished trials, in the order of `KEYS`; empty if no trial has finished.
    """

    detector: str
    init: str
    fraction: float
    reference: str
    n_trials: int
    n_failed: int
    n_left: int
    metrics: dict[str, Cell]


def aggregate(results: Mapping[str, Any], folder: str | Path | None = None) -> list[Row]:
    """Summarise the trials of every detector, label fraction and initialisation, and compare them with the reference.

    Trials are paired by seed. Trials that failed or have not ended are excluded, but counted.

    Args:
        results: content of the study's ``results.json``, version 2.
        folder: folder of the study. If the trials of each pair saved their detections, gaps also get intervals over
            test images, which takes a few seconds per trial. With None, these intervals are omitted.

    Returns:
        rows for each detector and fraction with a finished trial, in the order of the study. For each of these, the
        first row is that of the reference.

    Raises:
        ValueError: the reference is unknown, the trials of a detector have different metrics or values that are not
            finite, or the detections of a trial are damaged or do not match its metrics.
    """
    inits, reference = list(results["inits"]), results["reference"]
    if reference not in inits:
        raise ValueError(f"the reference {reference!r} is not among the initialisations {', '.join(inits)}")
    inits.sort(key=lambda name: name != reference)  # the sort is stable, so the others keep their order
    finished = [trial for trial in results["trials"] if trial["status"] == "finished"]
    rows = []
    for detector in results["detectors"]:
        found = [trial for trial in finished if trial["detector"] == detector]
        keys = _shared_keys(found)
        for fraction in results["fractions"]:
            if not any(trial["fraction"] == fraction for trial in found):
                continue
            planned = {
                init: [
                    trial
                    for trial in results["trials"]
                    if (trial["detector"], trial["init"], trial["fraction"]) == (detector, init, fraction)
                ]
                for init in inits
            }
            rows += [_row(detector, init, fraction, reference, planned, keys) for init in inits]
    return rows if folder is None else _with_image_intervals(rows, finished, reference, Path(folder))


def _shared_keys(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the `KEYS` that the trials of a detector contain, which must be the same for all trials."""
    shared = [key for key in KEYS if any(key in trial["metrics"] for trial in trials)]
    for trial in trials:
        found = [key for key in shared if key in trial["metrics"]]
        if found != shared:
            raise ValueError(f"{_name(trial)}: expected the metrics {shared}, as in the other trials, found {found}")
        if broken := [key for key in shared if not math.isfinite(trial["metrics"][key])]:
            raise ValueError(f"{_name(trial)}: {', '.join(broken)} is not a finite number")
    return shared


def _row(
    detector: str,
    init: str,
    fraction: float,
    reference: str,
    planned: Mapping[str, Sequence[Mapping[str, Any]]],
    keys: Sequence[str],
) -> Row:
    by_seed = {
        name: {trial["seed"]: trial["metrics"] for trial in planned[name] if trial["status"] == "finished"}
        for name in (init, reference)
    }
    own, base = by_seed[init], by_seed[reference]
    pairs = [(own[seed], base[seed]) for seed in own if seed in base and init != reference]
    metrics = {}
    for key in keys if own else ():
        values = [found[key] for found in own.values()]
        gap = paired_gap([one[key] for one, _ in pairs], [other[key] for _, other in pairs]) if pairs else None
        metrics[key] = Cell(statistics.fmean(values), deviation(values), gap)
    failed = sum(trial["status"] == "failed" for trial in planned[init])
    return Row(detector, init, fraction, reference, len(own), failed, len(planned[init]) - len(own) - failed, metrics)


def _with_image_intervals(
    rows: Sequence[Row], finished: Sequence[Mapping[str, Any]], reference: str, folder: Path
) -> list[Row]:
    from .bootstrap import image_intervals  # imports NumPy, which starting a study does not need

    found, filled = image_intervals(finished, reference, folder), []
    for row in rows:
        cells = dict(row.metrics)
        for key, (low, high) in found.get((row.detector, row.fraction, row.init), {}).items():
            if key in cells and (gap := cells[key].gap):
                cells[key] = replace(cells[key], gap=replace(gap, image_low=low, image_high=high))
        filled.append(replace(row, metrics=cells))
    return filled


def _name(trial: Mapping[str, Any]) -> str:
    return f"{trial['detector']}, {trial['init']}, {percent(trial['fraction'])} % of the labels, seed {trial['seed']}"
