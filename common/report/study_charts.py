"""Charts of a study's metrics: gaps, label fractions, training curves and classes."""

from collections.abc import Callable, Mapping, Sequence

from mocodet.common.study.aggregate import Row
from mocodet.common.study.statistics import paired_gap
from mocodet.common.study.trials import percent

from .charts import Axis, Gap, Point, Series, gap_chart, line_chart
from .findings import metric_names
from .logs import curve, over_seeds, thin
from .page import Figure, Group
from .read import Study, Trial, labels

MOST_CLASSES = 40  # per chart; if there are more, those with the largest gaps in either direction are shown
BANDS = "Lines show means over seeds. Bands extend one sample standard deviation to either side."


def group_name(study: Study, detector: str, fraction: float) -> str:
    """Return the title of a comparison: its label fraction, preceded by the detector if the study has more than one."""
    several = len({of for of, _ in study.groups}) > 1
    fraction_name = labels(fraction)
    if several:
        return f"{detector}, {fraction_name}"
    return fraction_name[0].upper() + fraction_name[1:]


def gaps(study: Study, rows: Sequence[Row]) -> list[Figure]:
    """Draw the gaps to the reference with their intervals, in one chart per detector and label fraction."""
    found = [cell.gap for row in rows for cell in row.metrics.values() if cell.gap is not None]
    if not found:
        return []
    ends = [value for gap in found for value in (gap.mean, gap.low, gap.high) if value is not None]
    axis = Axis(f"gap to {study.reference}, points", limits=(min(0.0, *ends), max(0.0, *ends)))
    figures = []
    for detector, fraction in study.groups:
        here = [row for row in rows if (row.detector, row.fraction) == (detector, fraction)]
        names = metric_names(shared_keys(here))
        drawn = [
            Gap(row.init, cell.gap.mean, cell.gap.low, cell.gap.high, study.tone(row.init), name)
            for key, name in names.items()
            for row in here
            if (cell := row.metrics.get(key)) is not None and cell.gap is not None
        ]
        if drawn:
            title = group_name(study, detector, fraction)
            figures.append(Figure(title, gap_chart(f"Gaps to {study.reference}: {title}", drawn, axis)))
    return figures


def shared_keys(rows: Sequence[Row]) -> list[str]:
    """Return the metrics of the rows. Rows without a finished trial contain no metrics."""
    return list(dict.fromkeys(key for row in rows for key in row.metrics))


def label_fractions(study: Study, rows: Sequence[Row]) -> list[Group]:
    """Draw metrics over the label fraction, for detectors with multiple fractions."""
    groups = []
    for detector in study.content["detectors"]:
        here = [row for row in rows if row.detector == detector]
        fractions = sorted({row.fraction for row in here})
        if len(fractions) < 2:
            continue
        axis = Axis("labels", [(fraction, f"{percent(fraction)} %") for fraction in fractions], logarithmic=True)
        figures = []
        for key, name in metric_names(shared_keys(here)).items():
            series = [_over_fractions(study, init, key, here) for init in study.inits]
            svg = line_chart(f"{name} over the label fraction, {detector}", series, axis, Axis(""))
            figures.append(Figure(name, svg))
        groups.append(Group(detector, figures))
    if groups:
        groups.append(Group("", [], BANDS))
    return groups


def training(study: Study) -> list[Group]:
    """Draw the metrics during training, the loss and the learning rate of finished trials."""
    groups = []
    for detector, fraction in study.groups:
        logs = {init: [trial.log() for trial in study.finished(detector, fraction, init)] for init in study.inits}
        keys = study.metrics(detector, fraction)
        names = metric_names(keys)
        wanted = {**names, "total_loss": "Loss", "lr": "Learning rate"}
        figures = []
        for key, name in wanted.items():
            series = _of_training(study, key, logs)
            # A single evaluation at the end of training does not form a curve.
            if series and max(len(line.points) for line in series) > 1:
                title = f"{name} over iterations, {group_name(study, detector, fraction)}"
                last = max(x for line in series for x, _ in line.points)
                figures.append(Figure(name, line_chart(title, series, Axis("iteration", limits=(0, last)), Axis(""))))
        if figures:
            folded = (detector, fraction) not in most_labels(study)
            groups.append(Group(group_name(study, detector, fraction), figures, folded=folded))
    if groups:
        groups.append(Group("", [], BANDS))
    return groups


def classes(study: Study) -> list[Group]:
    """Draw the gap in AP or IoU of each class, for each detector at its largest label fraction."""
    groups = []
    for detector, fraction in most_labels(study):
        by_init = {init: _class_gaps(study, detector, fraction, init) for init in study.inits[1:]}
        by_init = {init: found for init, found in by_init.items() if found}
        ends = [end for found in by_init.values() for gap in found for end in (gap.value, gap.low, gap.high)]
        known = [0.0, *(end for end in ends if end is not None)]
        metric = _class_metric(study.finished(detector, fraction, study.reference)[0])[1] if by_init else ""
        axis = Axis(f"gap in {metric}, points", limits=(min(known), max(known)))
        figures, note = [], ""
        for init, found in by_init.items():
            if len(found) > MOST_CLASSES:
                half = MOST_CLASSES // 2
                note = f"Of {len(found)} classes, those with the {half} highest and the {half} lowest gaps are shown."
                found = [*found[:half], *found[-half:]]
            title = f"{init} − {study.reference}"
            figures.append(Figure(title, gap_chart(f"Gaps in {metric} by class: {title}, {detector}", found, axis)))
        if figures:
            groups.append(Group(group_name(study, detector, fraction), figures, note))
    return groups


def most_labels(study: Study) -> list[tuple[str, float]]:
    """Return each detector with its largest label fraction that has finished trials."""
    largest: dict[str, float] = {}
    for detector, fraction in study.groups:
        largest[detector] = max(fraction, largest.get(detector, 0.0))
    return list(largest.items())


def class_metrics(trial: Trial) -> dict[str, float]:
    """Return the AP or IoU of each class at the end of a trial, in per cent. Classes without a value are omitted."""
    records = trial.log()
    begin = "{}/{}-".format(*_class_metric(trial))
    keys = dict.fromkeys(key for record in records for key in record if key.startswith(begin))
    ends = {key.removeprefix(begin): curve(records, key) for key in keys}
    return {name: points[-1][1] for name, points in ends.items() if points}


def _class_metric(trial: Trial) -> tuple[str, str]:
    """Return a trial's first task, and the name of the metric that is logged for each class."""
    task = next(iter(trial.metrics)).split("/")[0]
    return task, "IoU" if task == "sem_seg" else "AP"


def _over_fractions(study: Study, init: str, key: str, rows: Sequence[Row]) -> Series:
    cells = sorted((row.fraction, row.metrics[key]) for row in rows if row.init == init and key in row.metrics)
    points = [(fraction, cell.mean) for fraction, cell in cells]
    spread = [cell.deviation for _, cell in cells]
    band = None
    if all(deviation is not None for deviation in spread):
        band = [(y - (deviation or 0), y + (deviation or 0)) for (_, y), deviation in zip(points, spread, strict=True)]
    return Series(init, points, study.tone(init), band, marked=True)


def _of_training(study: Study, key: str, logs: Mapping[str, Sequence[Sequence[dict]]]) -> list[Series]:
    evaluated = "/" in key
    prepare: Callable[[list[Point]], list[Point]] = list if evaluated else thin
    series = []
    for init, trials in logs.items():
        curves = [prepare(found) for records in trials if (found := curve(records, key))]
        points, band = over_seeds(curves)
        if points:
            series.append(Series(init, points, study.tone(init), band, marked=evaluated))
    # If the curve is the same for all initialisations, it is drawn as one line without a name.
    if len(series) > 1 and all(line.points == series[0].points for line in series):
        return [Series("", series[0].points)]
    return series


def _class_gaps(study: Study, detector: str, fraction: float, init: str) -> list[Gap]:
    """Return the gaps in the metric of each class over all pairs of trials, in decreasing order."""
    base = {trial.seed: class_metrics(trial) for trial in study.finished(detector, fraction, study.reference)}
    own = {trial.seed: class_metrics(trial) for trial in study.finished(detector, fraction, init)}
    pairs = [(own[seed], base[seed]) for seed in own if seed in base]
    gaps = []
    for name in pairs[0][0] if pairs else ():
        if all(name in one and name in other for one, other in pairs):
            gap = paired_gap([one[name] for one, _ in pairs], [other[name] for _, other in pairs])
            gaps.append(Gap(name, gap.mean, gap.low, gap.high, study.tone(init)))
    return sorted(gaps, key=lambda gap: -gap.value)
