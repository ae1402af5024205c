"""A study's table as the paper prints it: AP50 / AP / AP75, gaps to the reference in brackets, large ones marked."""

from collections.abc import Sequence

from tabulate import tabulate

from .aggregate import KEYS, Row, Statistic

MARKED_GAP = 0.5  # the paper's tables mark gaps of at least +0.5 points
# sem_seg's mIoU says by itself of what it is.
TASK_NAMES = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "densepose_gps": "GPS", "sem_seg": ""}


def format_table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """Lay the rows out in columns, for a terminal or as Markdown; mark a gap of at least +0.5 by ``*`` or in bold."""
    layout, marked, mark = ("github", "**{gap}**", "bold") if markdown else ("simple", "{gap}*", "*")
    keys = [key for key in KEYS if key in rows[0].metrics]
    names = (key.split("/") for key in keys)
    headers = ["init", "trials", *(f"{metric} {TASK_NAMES[task]}".rstrip() for task, metric in names)]
    cells = [[row.init, row.n_trials, *(_cell(row.metrics[key], marked) for key in keys)] for row in rows]
    table = tabulate(cells, headers, tablefmt=layout, disable_numparse=True)
    spread = "mean ± sample standard deviation" if rows[0].n_trials > 1 else "one trial each, so no spread"
    return f"{table}\n\n{spread}; in brackets the gap to {rows[0].init}, at least +{MARKED_GAP} marked ({mark})"


def _cell(statistic: Statistic, marked: str) -> str:
    cell = f"{statistic.mean:.1f}"
    if statistic.deviation is not None:
        cell += f" ± {statistic.deviation:.1f}"
    if statistic.gap is not None:
        rounded = round(statistic.gap, 1) + 0.0  # what is printed decides the mark; -0.0 becomes 0.0
        gap = f"{rounded:+.1f}"
        cell += f" ({marked.format(gap=gap) if rounded >= MARKED_GAP else gap})"
    return cell
