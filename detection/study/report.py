"""A study's table as the paper prints it: AP50 / AP / AP75, gaps to the reference in brackets, large ones marked."""

from collections.abc import Sequence

from .aggregate import TASKS, Row, Statistic

MARKED_GAP = 0.5  # the paper's tables mark gaps of at least +0.5 points
# sem_seg's mIoU says by itself of what it is.
TASK_NAMES = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "densepose_gps": "GPS", "sem_seg": ""}


def text_table(rows: Sequence[Row]) -> str:
    """Lay the rows out in columns for a terminal; a gap of at least +0.5 is followed by ``*``."""
    cells = [_header(rows), *([row.init, str(row.n_trials), *_cells(row, "{gap}*")] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", _legend(rows, "*")])


def markdown_table(rows: Sequence[Row]) -> str:
    """Lay the rows out as a Markdown table; a gap of at least +0.5 is set in bold."""
    cells = [_header(rows), ["---"] * len(_header(rows))]
    cells += [[row.init, str(row.n_trials), *_cells(row, "**{gap}**")] for row in rows]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([*lines, "", _legend(rows, "bold")])


def _keys(rows: Sequence[Row]) -> list[str]:
    keys = (f"{task}/{metric}" for task, metrics in TASKS.items() for metric in metrics)
    return [key for key in keys if key in rows[0].metrics]


def _header(rows: Sequence[Row]) -> list[str]:
    names = [key.split("/") for key in _keys(rows)]
    return ["init", "trials", *(f"{metric} {TASK_NAMES[task]}".rstrip() for task, metric in names)]


def _cells(row: Row, marked: str) -> list[str]:
    return [_cell(row.metrics[key], marked) for key in _keys([row])]


def _cell(statistic: Statistic, marked: str) -> str:
    cell = f"{statistic.mean:.1f}"
    if statistic.deviation is not None:
        cell += f" ± {statistic.deviation:.1f}"
    if statistic.gap is not None:
        rounded = round(statistic.gap, 1) + 0.0  # what is printed decides the mark; -0.0 becomes 0.0
        gap = f"{rounded:+.1f}"
        cell += f" ({marked.format(gap=gap) if rounded >= MARKED_GAP else gap})"
    return cell


def _legend(rows: Sequence[Row], mark: str) -> str:
    spread = "mean ± sample standard deviation" if rows[0].n_trials > 1 else "one trial each, so no spread"
    return f"{spread}; in brackets the gap to {rows[0].init}, at least +{MARKED_GAP} marked ({mark})"
