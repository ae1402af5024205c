"""The page of a study: a summary of the findings, followed by tables, charts and images."""

from collections.abc import Sequence
from shlex import join
from typing import Any

from mocodet.common.progress import duration
from mocodet.common.study.aggregate import KEYS, Row, aggregate
from mocodet.common.study.results import RESULTS_FILE
from mocodet.common.study.statistics import seeds_to_show
from mocodet.common.study.trials import percent

from . import study_charts as charts
from .detections import pictures
from .findings import compare, compare_others, metric_names
from .page import Page, Section
from .precision_recall import precision_recall
from .published import Published, published
from .read import Study, labels

COVERS = (
    "An interval contains the true mean gap with 95 % confidence, according to a paired t test over the fine-tuning"
    " seeds. It is valid only for these weights, not for other pre-training runs. Intervals over test images come from"
    " a bootstrap over the images, with fixed trained detectors."
)


def study_page(study: Study, rows: Sequence[Row], with_images: bool) -> Page:
    """Create the page of a study.

    Args:
        study: study with at least one finished trial.
        rows: rows of the study, from `aggregate`.
        with_images: whether to show test images with detections.
    """
    candidates = [
        Section("Findings", "findings.html", _findings(study, rows)),
        Section("Results", "results.html", _results(study, rows)),
        Section("Fewer labels", "charts.html", charts.label_fractions(study, rows)),
        Section("Classes", "charts.html", charts.classes(study)),
        Section("Precision and recall", "charts.html", precision_recall(study)),
        Section("The same images", "pictures.html", pictures(study) if with_images else None),
        Section("Training", "charts.html", charts.training(study)),
        Section("Trials", "trials.html", _trials(study)),
        Section("How it was made", "facts.html", _facts(study)),
    ]
    sections = [section for section in candidates if section.content]
    footer = f"Created by mocodet report from {RESULTS_FILE} and the folders of the trials."
    return Page("Study", study.name, _summary(study), sections, footer)


def _summary(study: Study) -> str:
    content = study.content
    counts = [
        (content["detectors"], "detector"),
        (study.inits, "initialisation"),
        (content["fractions"], "label fraction"),
        (content["seeds"], "seed"),
    ]
    product = " × ".join(f"{len(some)} {name}{'s' if len(some) > 1 else ''}" for some, name in counts)
    by_status = dict.fromkeys(("finished", "failed", "running", "waiting"), 0)
    for trial in study.trials:
        by_status[trial.status] += 1
    ended = ", ".join(f"{count} {status}" for status, count in by_status.items() if count)
    return f"{product}: {len(study.trials)} trials, {ended}."


def _findings(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    among_others = _among_others(study)
    groups = []
    for detector, fraction in study.groups:
        own = [row for row in rows if (row.detector, row.fraction) == (detector, fraction)]
        groups.append(
            {
                "name": charts.group_name(study, detector, fraction),
                "sentences": [compare(row, study.reference) for row in own if row.init != study.reference],
                "others": compare_others(
                    [
                        (other, row)
                        for other, row in among_others
                        if (row.detector, row.fraction) == (detector, fraction)
                    ]
                ),
            }
        )
    return {
        "groups": groups,
        "figures": charts.gaps(study, rows),
        "covers": COVERS,
        "seeds": _seeds_needed(study, rows),
    }


def _among_others(study: Study) -> list[tuple[str, Row]]:
    """Compare all pairs of initialisations other than the reference: (name of the first, row of the second)."""
    found = []
    for place, other in enumerate(study.inits[1:], start=1):
        later = study.inits[place + 1 :]
        if later:
            found += [(other, row) for row in aggregate({**study.content, "reference": other}) if row.init in later]
    return found


def _seeds_needed(study: Study, rows: Sequence[Row]) -> str:
    """Return a sentence on how many seeds show half a point at the smallest and largest observed deviation of gaps."""
    key, name = next(iter(metric_names(charts.shared_keys(rows)).items()))
    gaps = [row.metrics[key].gap for row in rows if key in row.metrics]
    spreads = [gap.deviation for gap in gaps if gap is not None and gap.deviation is not None]
    if not spreads:
        return ""
    least, most = (seeds_to_show(spread) for spread in (min(spreads), max(spreads)))
    seeds = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"At the observed standard deviation, an interval of half a point {name} to either side requires {seeds} seeds."
    )


def _results(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    tables: list[dict[str, Any]] = []
    for detector in dict.fromkeys(row.detector for row in rows):
        own = [row for row in rows if row.detector == detector]
        keys = charts.shared_keys(own)
        parts = [
            {
                "name": labels(fraction),
                "rows": [_table_row(study, row, keys) for row in own if row.fraction == fraction],
            }
            for fraction in sorted({row.fraction for row in own}, reverse=True)
        ]
        beside = _published(study, detector)
        tables.append(
            {
                "name": detector,
                "reference": study.reference,
                "anchor": f"table-{len(tables) + 1}",
                "keys": list(metric_names(keys).values()),
                "parts": parts,
                "published": [
                    {"init": row.init, "place": row.place, "values": [row.values.get(key) for key in keys]}
                    for row in beside.rows
                ],
                "note": beside.note,
            }
        )
    keys = charts.shared_keys(rows)
    pairs = [
        {
            "group": charts.group_name(study, row.detector, row.fraction),
            "name": f"{row.init} − {other}",
            "gaps": [row.metrics[key].gap if key in row.metrics else None for key in keys],
        }
        for other, row in sorted(
            _among_others(study), key=lambda pair: study.groups.index((pair[1].detector, pair[1].fraction))
        )
    ]
    return {
        "tables": tables,
        "reference": study.reference,
        "pairs": pairs,
        "pair_keys": list(metric_names(keys).values()),
    }


def _table_row(study: Study, row: Row, keys: Sequence[str]) -> dict[str, Any]:
    planned = len(study.content["seeds"])
    count = f"{row.n_trials}" if row.n_trials == planned else f"{row.n_trials} of {planned}"
    return {
        "init": row.init,
        "tone": study.tone(row.init),
        "trials": count,
        "cells": [row.metrics.get(key) for key in keys],
    }


def _published(study: Study, detector: str) -> Published:
    """Return the published results for a detector's task, which is determined from a trial with all labels."""
    for trial in study.trials:
        if (trial.detector, trial.fraction, trial.status) == (detector, 1.0, "finished"):
            config = trial.config()
            return published(trial.config_file(), config) if config else Published()
    return Published()


def _trials(study: Study) -> dict[str, Any]:
    keys = sorted({key for trial in study.trials for key in trial.metrics}, key=KEYS.index)
    rows = [
        {
            "detector": trial.detector,
            "init": trial.init,
            "labels": f"{percent(trial.fraction)} %",
            "seed": trial.seed,
            "status": trial.status,
            "values": [trial.metrics.get(key) for key in keys],
            "time": "" if trial.seconds is None else duration(trial.seconds),
        }
        for trial in study.trials
    ]
    failed = [
        {"name": f"{trial.detector}, {trial.init}, {labels(trial.fraction)}, seed {trial.seed}", "reason": trial.reason}
        for trial in study.trials
        if trial.status == "failed"
    ]
    return {"keys": list(metric_names(keys).values()), "rows": rows, "failed": failed}


def _facts(study: Study) -> dict[str, Any]:
    content = study.content
    facts = [(name, str(version)) for name, version in content["versions"].items() if version]
    facts += [
        (
            f"weights of {name}",
            f"{weights['path']}, SHA-256 {weights['sha256']}" if weights.get("sha256") else weights["path"],
        )
        for name, weights in content["weights"].items()
    ]
    commands = []
    for detector in content["detectors"]:
        for init in study.inits:
            own = next(trial for trial in study.trials if (trial.detector, trial.init) == (detector, init))
            commands.append(f"# {detector} from {init}, {labels(own.fraction)}, seed {own.seed}\n{join(own.command)}")
    listings = [("Command of the first trial of each detector and initialisation", "\n\n".join(commands))]
    return {"facts": facts, "listings": listings, "first_open": False}
