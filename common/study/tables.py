"""The tables of a study: AP50 / AP / AP75 as in the paper, each gap with its intervals, and explanatory notes."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import NamedTuple

from tabulate import tabulate

from .aggregate import KEYS, Cell, Row
from .statistics import POINTS, POWER, Gap, bound, in_words, seeds_to_find, seeds_to_show
from .trials import percent

# The output file of each format.
FILES = {
    "text": "report.txt",
    "markdown": "report.md",
    "latex": "report.tex",
    "csv": "report.csv",
    "json": "report.json",
}
MARKED_GAP = POINTS  # the paper's tables mark gaps of at least +0.5 points
# mIoU, the metric of sem_seg, needs no task name.
TASK_NAMES = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "densepose_gps": "GPS", "sem_seg": ""}
NONE = "–"


def format_table(rows: Sequence[Row], style: str = "text") -> str:
    """Format the rows of a study as a table.

    The detector and the label fraction each have a column if the study has more than one of them, and always in CSV and
    JSON. Numbers have one decimal place, except in CSV and JSON, which contain all digits.

    Args:
        rows: result of `aggregate`, with at least one row.
        style: ``text``, ``markdown``, ``latex`` (for booktabs), ``csv`` (one line per metric of a row) or ``json``.

    Raises:
        ValueError: there are no rows, or the style is unknown.
    """
    if not rows:
        raise ValueError("no trial has finished, so there is nothing to tabulate")
    if style == "csv":
        return _csv(rows)
    if style == "json":
        return json.dumps({"rows": [asdict(row) for row in rows], "notes": notes(rows)}, indent=2, allow_nan=False)
    if style not in STYLES:
        raise ValueError(f"unknown table style {style!r}; expected {', '.join(STYLES)}, csv or json")
    return _document(rows, STYLES[style])


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Return the rows of a study formatted in every style, keyed by file name. See `format_table`."""
    return {name: f"{format_table(rows, style)}\n" for style, name in FILES.items()}


def notes(rows: Sequence[Row]) -> list[str]:
    """Return sentences that explain the numbers and the intervals, and list the excluded trials."""
    cells = [cell for row in rows for cell in row.metrics.values()]
    gaps = [cell.gap for cell in cells if cell.gap]
    spread = any(cell.deviation is not None for cell in cells)
    found = [
        "Mean ± sample standard deviation over trials."
        if spread
        else "Values from single trials, without a standard deviation."
    ]
    if gaps:
        found.append(f"In parentheses: gap to {rows[0].reference}, averaged over pairs of trials with the same seed.")
    if any(gap.low is not None for gap in gaps):
        found += [
            "The interval of a gap covers the variation over fine-tuning seeds (95 %, paired t test). It is valid only"
            " for these weights: another pre-training run may have a different gap.",
            f"Seeds for ±{POINTS}: number of seeds for which, at the observed standard deviation, the interval extends"
            f" {POINTS} to either side. Seeds to find {POINTS}: number of seeds with which {100 * POWER:.0f} % of"
            f" studies detect a true gap of {POINTS}.",
        ]
    elif gaps:
        found.append("A single pair of trials has no interval, so its gap may be due to chance.")
    if any(gap.image_low is not None for gap in gaps):
        found.append(
            "The interval over images covers the variation over test images (95 %, bootstrap). It is valid only for"
            " these trained models."
        )
    left_out = [
        f"{count} {what} ({', '.join(_labels(rows, row).values())})"
        for row in rows
        for count, what in ((row.n_failed, "failed"), (row.n_left, "not finished"))
        if count
    ]
    if left_out:
        found.append(f"Excluded trials: {'; '.join(left_out)}.")
    return found


def is_marked(gap: Gap) -> bool:
    """Return whether a gap is marked, which requires +0.5 or more as printed and a seed interval that excludes 0."""
    return gap.is_told and round(gap.mean, 1) >= MARKED_GAP


def metric_name(key: str) -> str:
    """Return the column title of a metric: ``bbox/AP50`` becomes ``AP50 box``."""
    task, metric = key.split("/")
    return f"{metric} {TASK_NAMES[task]}".rstrip()


class Style(NamedTuple):
    """The elements of a table in one text format. ``{}`` is the placeholder for the content."""

    table: Callable[[list[str], list[list[str]]], str]  # formats titles and rows
    notes: Callable[[list[str]], str]
    number: str
    plus_minus: str
    marked: str  # format of the mean of a marked gap
    mark: str  # name of the mark in the notes
    escape: Callable[[str], str] = str


def _tabulated(layout: str) -> Callable[[list[str], list[list[str]]], str]:
    return lambda titles, rows: tabulate(rows, titles, tablefmt=layout, disable_numparse=True)


def _latex_table(titles: list[str], rows: list[list[str]]) -> str:
    head, *body = (" & ".join(cells) + r" \\" for cells in (titles, *rows))
    begin = rf"\begin{{tabular}}{{{'l' * len(titles)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def _latex_escape(text: str) -> str:
    for character in "_%":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", r"$\pm$").replace(NONE, "--")


STYLES = {
    "text": Style(_tabulated("simple"), "\n".join, "{}", "±", "{}*", "*"),
    "markdown": Style(
        _tabulated("github"), lambda found: "\n".join(f"- {note}" for note in found), "{}", "±", "**{}**", "bold"
    ),
    "latex": Style(
        _latex_table,
        lambda found: "\\par\\smallskip\\noindent\n" + _latex_escape("\n".join(found)),
        "${}$",
        r"\pm",
        r"\mathbf{{{}}}",
        "bold",
        _latex_escape,
    ),
}


def _document(rows: Sequence[Row], style: Style) -> str:
    said, gaps = notes(rows), _gaps(rows, style)
    if gaps:
        said.append(f"A gap of at least +{MARKED_GAP} is marked ({style.mark}) if its interval over seeds excludes 0.")
    return "\n\n".join(part for part in (_results(rows, style), gaps, style.notes(said)) if part)


def _results(rows: Sequence[Row], style: Style) -> str:
    keys = _keys(rows)
    titles = [*_labels(rows, rows[0]), "trials", *map(metric_name, keys)]
    cells = [
        [
            *map(style.escape, _labels(rows, row).values()),
            style.number.format(row.n_trials),
            *(_cell(row.metrics.get(key), style) for key in keys),
        ]
        for row in rows
    ]
    return style.table(titles, cells)


def _cell(cell: Cell | None, style: Style) -> str:
    if cell is None:
        return style.escape(NONE)
    text = f"{cell.mean:.1f}" + ("" if cell.deviation is None else f" {style.plus_minus} {cell.deviation:.1f}")
    if cell.gap is None:
        return style.number.format(text)
    mean = f"{round(cell.gap.mean, 1) + 0.0:+.1f}"  # -0.0 becomes 0.0
    gap = style.number.format(style.marked.format(mean) if is_marked(cell.gap) else mean)
    interval = _interval(cell.gap.low, cell.gap.high, style)
    return f"{style.number.format(text)} ({gap}{interval and ' '}{interval})"


def _gaps(rows: Sequence[Row], style: Style) -> str:
    """Tabulate the interpretation of each gap and the required seeds. The result is empty if no gap has an interval."""
    gaps = [
        (row, key, gap)
        for row in rows
        for key in _keys(rows)
        if key in row.metrics and (gap := row.metrics[key].gap) and gap.deviation is not None
    ]
    if not gaps:
        return ""
    over_images = any(gap.image_low is not None for _, _, gap in gaps)
    titles = [*_labels(rows, rows[0]), "metric", "pairs", f"gap to {rows[0].reference}"]
    titles += [*(["over images"] if over_images else []), f"seeds for ±{POINTS}", f"seeds to find {POINTS}"]
    cells = [
        [
            *map(style.escape, [*_labels(rows, row).values(), metric_name(key)]),
            style.number.format(gap.n),
            style.escape(in_words(gap, row.init, row.reference)),
            *([_interval(gap.image_low, gap.image_high, style) or style.escape(NONE)] if over_images else []),
            *(style.number.format(count(gap.deviation or 0.0)) for count in (seeds_to_show, seeds_to_find)),
        ]
        for row, key, gap in gaps
    ]
    return style.table(list(map(style.escape, titles)), cells)


def _interval(low: float | None, high: float | None, style: Style) -> str:
    return "" if low is None or high is None else style.number.format(f"[{bound(low, '+')}, {bound(high, '+')}]")


def _keys(rows: Sequence[Row]) -> list[str]:
    return sorted({key for row in rows for key in row.metrics}, key=KEYS.index)


def _labels(rows: Sequence[Row], row: Row) -> dict[str, str]:
    """Return the labels that distinguish a row from the others, keyed by column title."""
    labels = {}
    if len({row.detector for row in rows}) > 1:
        labels["detector"] = row.detector
    if len({row.fraction for row in rows}) > 1:
        labels["labels"] = f"{percent(row.fraction)} %"
    return {**labels, "init": row.init}


def _csv(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        counts = {"trials": row.n_trials, "failed": row.n_failed, "left": row.n_left}
        place = {"detector": row.detector, "init": row.init, "fraction": row.fraction, "reference": row.reference}
        for key, cell in row.metrics.items() or [("", None)]:
            gap = cell.gap if cell else None
            lines.append(
                {
                    **place,
                    **counts,
                    "metric": key,
                    "mean": cell.mean if cell else None,
                    "deviation": cell.deviation if cell else None,
                    **{f"gap_{field.name}": getattr(gap, field.name, None) for field in fields(Gap)},
                }
            )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue().rstrip("\n")
