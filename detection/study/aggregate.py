"""From the results of single trials to means, spreads and gaps."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.coco_results import read_json

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
MAY_LACK = {"segm/AP75"}  # Cityscapes' script does not compute it


def read_metrics(folder: str | Path) -> Results:
    """Read the metrics of a finished training run from ``results.json`` in its ``OUTPUT_DIR``.

    Every evaluation writes the file anew. One on the way gives no results; what it wrote is older than the run's
    ``model_final.pth``.

    Returns:
        those of `TASKS` that were evaluated, such as ``bbox/AP50`` or ``sem_seg/mIoU``; in per cent.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the results are not those of the end or not of one data set, no task was evaluated, a task lacks one
            of its metrics, or a value is not finite.
    """
    path, model = Path(folder, "results.json"), Path(folder, "model_final.pth")
    if path.stat().st_mtime_ns < model.stat().st_mtime_ns:
        raise ValueError(f"{path} is of an evaluation on the way, for {model.name} is newer; expected one at the end")
    evaluated = read_json(path)
    if len(evaluated) != 1:
        raise ValueError(f"{path} has the metrics of {', '.join(evaluated)}; a study compares those of one data set")
    (tasks,) = evaluated.values()
    found = {f"{task}/{metric}": value for task, metrics in tasks.items() for metric, value in metrics.items()}
    results = {key: found[key] for key in KEYS if key in found}
    if not results:
        raise ValueError(f"{path} has the metrics of no task; expected those of one of {', '.join(TASKS)}")
    if lacking := [key for key in KEYS if key.partition("/")[0] in tasks and key not in {*results, *MAY_LACK}]:
        raise ValueError(f"{path} has {', '.join(results)}, but no {', '.join(lacking)}")
    for key, value in results.items():
        if value is None or not math.isfinite(value):
            raise ValueError(f"{path}: {key} is {value}; expected a number")
    return results


@dataclass(frozen=True)
class Statistic:
    """A metric over the trials of one initialisation."""

    mean: float
    deviation: float | None  # sample standard deviation (n - 1); None for a single trial
    gap: float | None  # mean minus the reference's mean; None for the reference itself


@dataclass(frozen=True)
class Row:
    """One line of a study's table."""

    init: str
    n_trials: int
    metrics: dict[str, Statistic]


def aggregate(results: Mapping[str, Sequence[Results]], reference: str) -> list[Row]:
    """Summarise the trials of every initialisation and compare them with the reference, which comes first.

    Args:
        results: for each initialisation, the metrics of its trials.
        reference: the initialisation that gaps are measured from.

    Raises:
        ValueError: unknown reference, no trials, trials with different metrics or of different number, NaN.
    """
    if reference not in results:
        raise ValueError(f"the reference {reference!r} is not among the initialisations {', '.join(results)}")
    counts = {init: len(trials) for init, trials in results.items()}
    if 0 in counts.values() or len(set(counts.values())) != 1:
        raise ValueError(f"every initialisation needs the same number of trials, at least one; got {counts}")
    keys = list(results[reference][0])
    for init, trials in results.items():
        for number, trial in enumerate(trials):
            if set(trial) != set(keys):
                raise ValueError(f"{init}, trial {number} has the metrics {sorted(trial)}; expected {sorted(keys)}")
            if broken := [key for key in keys if not math.isfinite(trial[key])]:
                raise ValueError(f"{init}, trial {number}: {', '.join(broken)} is not a finite number")

    rows = []
    for init in sorted(results, key=lambda name: name != reference):  # a stable sort: the rest keeps its order
        metrics = {}
        for key in keys:
            values, base = ([trial[key] for trial in results[name]] for name in (init, reference))
            metrics[key] = Statistic(
                mean=statistics.fmean(values),
                deviation=statistics.stdev(values) if len(values) > 1 else None,
                gap=None if init == reference else statistics.fmean(values) - statistics.fmean(base),
            )
        rows.append(Row(init, len(results[init]), metrics))
    return rows
