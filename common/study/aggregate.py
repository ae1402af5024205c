"""From the logs of single trials to means, spreads and gaps."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

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
    """Read the metrics of a finished training run from the ``metrics.json`` that detectron2 writes.

    A metric's value is that of the last line which has it. The line must have been written at the end of training:
    scores of an evaluation on the way are not results.

    Args:
        folder: the run's ``OUTPUT_DIR``, with ``metrics.json`` and the run's ``config.yaml``.

    Returns:
        those of `TASKS` that were evaluated, such as ``bbox/AP50`` or ``sem_seg/mIoU``; in per cent.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a damaged line, no task that was evaluated at the end, a task without one of its metrics, or a
            value that is not finite.
    """
    max_iter = yaml.safe_load(Path(folder, "config.yaml").read_text(encoding="utf-8"))["SOLVER"]["MAX_ITER"]
    path = Path(folder, "metrics.json")
    last: dict[str, tuple[int, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}") from error
        last.update({key: (record["iteration"], record[key]) for key in KEYS if key in record})

    results: Results = {}
    for task, metrics in TASKS.items():
        keys = [f"{task}/{metric}" for metric in metrics]
        present = [key for key in keys if key in last]
        if lacking := [key for key in keys if present and key not in {*present, *MAY_LACK}]:
            raise ValueError(f"{path} has {', '.join(present)}, but no {', '.join(lacking)}")
        for key in present:
            iteration, value = last[key]
            # Hooks that run after the last step log under MAX_ITER, the step itself under MAX_ITER - 1.
            if iteration < max_iter - 1:
                raise ValueError(f"{path}: the last {key} is of iteration {iteration}, the run has {max_iter}")
            if not math.isfinite(value):
                raise ValueError(f"{path}: {key} is {value} at iteration {iteration}; expected a number")
            results[key] = float(value)
    if not results:
        raise ValueError(f"{path} has the metrics of no task; expected those of one of {', '.join(TASKS)}")
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
