import csv
import json
import re
from dataclasses import replace

import pytest

from mocodet.common.study.aggregate import aggregate
from mocodet.common.study.tables import format_table
from tests.common.study.contents import content_of


def result(task, ap50, ap, ap75):
    return {f"{task}/AP50": ap50, f"{task}/AP": ap, f"{task}/AP75": ap75}


def rows_of(**metrics):
    return aggregate(content_of(metrics))


# Gaps of AP50: +3 and +1, of AP: +2.1 and +1.9. Student's t of one degree of freedom is 12.71.
BOXES = rows_of(
    random=[{"bbox/AP50": 60.0, "bbox/AP": 33.0}, {"bbox/AP50": 62.0, "bbox/AP": 35.0}],
    moco=[{"bbox/AP50": 63.0, "bbox/AP": 35.1}, {"bbox/AP50": 63.0, "bbox/AP": 36.9}],
)
NOTES = [
    "Mean ± sample standard deviation over trials.",
    "In parentheses: gap to random, averaged over pairs of trials with the same seed.",
    "The interval of a gap covers the variation over fine-tuning seeds (95 %, paired t test). It is valid only for"
    " these weights: another pre-training run may have a different gap.",
    "Seeds for ±0.5: number of seeds for which, at the observed standard deviation, the interval extends 0.5 to either"
    " side. Seeds to find 0.5: number of seeds with which 80 % of studies detect a true gap of 0.5.",
]


def test_format_table():
    assert format_table(BOXES).splitlines() == [
        "init    trials    AP50 box                          AP box",
        "------  --------  --------------------------------  -------------------------------",
        "random  2         61.0 ± 1.4                        34.0 ± 1.4",
        "moco    2         63.0 ± 0.0 (+2.0 [-10.7, +14.7])  36.0 ± 1.3 (+2.0* [+0.7, +3.3])",
        "",
        "init    metric    pairs    gap to random                        seeds for ±0.5    seeds to find 0.5",
        "------  --------  -------  -----------------------------------  ----------------  -------------------",
        "moco    AP50 box  2        cannot be told apart                 34                65",
        "moco    AP box    2        moco is better by 0.7 to 3.3 points  3                 3",
        "",
        *NOTES,
        "A gap of at least +0.5 is marked (*) if its interval over seeds excludes 0.",
    ]


def test_format_table__markdown():
    text = format_table(BOXES, "markdown")
    assert "| moco   | 2        | 63.0 ± 0.0 (+2.0 [-10.7, +14.7]) | 36.0 ± 1.3 (**+2.0** [+0.7, +3.3]) |" in text
    assert text.endswith("- A gap of at least +0.5 is marked (bold) if its interval over seeds excludes 0.")
    assert "\n\n" + "\n".join(f"- {note}" for note in NOTES) + "\n" in text


def test_format_table__latex_is_balanced():
    content = content_of({"my_init": [result("bbox", 60.0, 33.0, 34.0)] * 2, "random": [None, None]})
    content["trials"] += content_of({"random": [result("bbox", 50.0, 33.0, 34.0)] * 2}, fraction=0.1)["trials"]
    content["fractions"] = [1.0, 0.1]
    for rows in (BOXES, aggregate(content), rows_of(random=[{"sem_seg/mIoU": 40.0}])):
        text = format_table(rows, "latex")
        assert text.count("{") == text.count("}")
        assert text.count("$") % 2 == 0
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\bottomrule")
        for body in re.findall(r"\\begin{tabular}{(l+)}\n(.*?)\\end{tabular}", text, flags=re.DOTALL):
            lines = [line for line in body[1].splitlines() if line.endswith(r"\\")]
            assert {line.count("&") + 1 for line in lines} == {len(body[0])}
        assert re.search(r"(?<!\\)[_%#]|±|–", re.sub(r"\$.*?\$", "", text)) is None
    assert r"moco & $2$ & $63.0 \pm 0.0$ ($+2.0$ $[-10.7, +14.7]$)" in format_table(BOXES, "latex")
    assert r"$36.0 \pm 1.3$ ($\mathbf{+2.0}$ $[+0.7, +3.3]$)" in format_table(BOXES, "latex")
    assert r"100 \% & my\_init & $2$ &" in format_table(aggregate(content), "latex")


def test_format_table__csv_and_json_hold_the_numbers_themselves():
    gap = replace(BOXES[1].metrics["bbox/AP"].gap, image_low=0.1, image_high=1 / 3)
    cells = BOXES[1].metrics | {"bbox/AP": replace(BOXES[1].metrics["bbox/AP"], gap=gap)}
    rows = [BOXES[0], replace(BOXES[1], metrics=cells, n_failed=3)]
    lines = list(csv.DictReader(format_table(rows, "csv").splitlines()))
    of_json = json.loads(format_table(rows, "json"))
    assert [(line["init"], line["metric"]) for line in lines] == [
        (row.init, key) for row in rows for key in row.metrics
    ]
    places = {(row.init, key): (row, cell) for row in rows for key, cell in row.metrics.items()}
    for line in lines:
        row, cell = places[line["init"], line["metric"]]
        assert [line[key] for key in ("detector", "reference")] == ["FPN", "random"]
        assert [float(line[key]) for key in ("fraction", "trials", "failed", "left")] == [1, 2, row.n_failed, 0]
        assert [float(line[key]) for key in ("mean", "deviation")] == [cell.mean, cell.deviation]
        for name in ("mean", "deviation", "low", "high", "n", "image_low", "image_high"):
            value = line[f"gap_{name}"]
            assert (float(value) if value else None) == getattr(cell.gap, name, None)
        assert of_json["rows"][rows.index(row)]["metrics"][line["metric"]]["mean"] == cell.mean
    assert of_json["rows"][1]["metrics"]["bbox/AP"]["gap"]["image_high"] == 1 / 3
    assert "Excluded trials: 3 failed (moco)." in of_json["notes"]


def test_format_table__intervals_over_images_have_a_column_and_a_note():
    gap = replace(BOXES[1].metrics["bbox/AP"].gap, image_low=-0.22, image_high=2.5)
    cells = BOXES[1].metrics | {"bbox/AP": replace(BOXES[1].metrics["bbox/AP"], gap=gap)}
    text = format_table([BOXES[0], replace(BOXES[1], metrics=cells)])
    assert re.search(r"pairs +gap to random +over images +seeds for ±0.5", text)
    assert re.search(r"moco +AP box +2 +moco is better by .* points +\[-0.2, \+2.5\] +3", text)
    assert re.search(r"moco +AP50 box +2 +cannot be told apart +– +34", text)
    assert (
        "images covers the variation over test images (95 %, bootstrap). It is valid only for these trained models."
        in text
    )


def test_format_table__several_detectors_and_fractions_have_columns():
    content = content_of({"random": [result("bbox", 5.0, 4.0, 3.0)], "moco": [None]})
    content["trials"] += content_of({"random": [{"sem_seg/mIoU": 40.0}]}, detector="FCN")["trials"]
    content["detectors"] += ["FCN"]
    first, _, *lines = format_table(aggregate(content)).splitlines()
    assert first.split() == ["detector", "init", "trials", "AP50", "box", "AP", "box", "AP75", "box", "mIoU"]
    assert [line.split() for line in lines[:4]] == [
        ["FPN", "random", "1", "5.0", "4.0", "3.0", "–"],
        ["FPN", "moco", "0", "–", "–", "–", "–"],
        ["FCN", "random", "1", "–", "–", "–", "40.0"],
        ["FCN", "moco", "0", "–", "–", "–", "–"],
    ]
    assert "Excluded trials: 1 failed (FPN, moco)." in lines
    content["trials"] += content_of({"random": [result("bbox", 5.0, 4.0, 3.0)]}, fraction=0.005)["trials"]
    content["fractions"] += [0.005]
    assert re.search(r"FPN +0\.5 % +random +1", format_table(aggregate(content)))


def test_format_table__masks_and_single_trials():
    trial = {**result("segm", 5.0, 4.0, 3.0), **result("bbox", 6.0, 5.0, 4.0)}
    header, _, row, *_ = format_table(rows_of(random=[trial])).splitlines()
    assert " ".join(header.split()) == "init trials AP50 box AP box AP75 box AP50 mask AP mask AP75 mask"
    assert row.split() == ["random", "1", "6.0", "5.0", "4.0", "5.0", "4.0", "3.0"]
    text = format_table(rows_of(random=[trial], moco=[{key: value + 9 for key, value in trial.items()}]))
    assert "15.0 (+9.0)" in text  # one pair is never marked
    assert "Values from single trials, without a standard deviation." in text
    assert "A single pair of trials has no interval, so its gap may be due to chance." in text
    assert "marked" not in text


@pytest.mark.parametrize(
    ("gaps", "cell"),
    [
        ((0.4999, 0.4999), "(+0.5* [+0.5, +0.5])"),  # what is printed decides
        ((0.44, 0.44), "(+0.4 [+0.4, +0.4])"),
        ((-0.04, -0.02), "(+0.0 [-0.2, +0.1])"),
        ((-0.9, -0.9), "(-0.9 [-0.9, -0.9])"),
        ((5.0, 0.5), "(+2.8 [-25.8, +31.3])"),  # cannot be told from 0
        ((1.9, 2.3), "(+2.1 [-0.4, +4.6])"),
        ((1.95, 2.278), "(+2.1* [+0.03, +4.2])"),
    ],
)
def test_format_table__the_mark_stands_beside_an_interval_that_excludes_0(gaps, cell):
    moco = [result("bbox", 9.0, 10.0 + gap, 9.0) for gap in gaps]
    line = format_table(rows_of(random=[result("bbox", 9.0, 10.0, 9.0)] * 2, moco=moco)).splitlines()[3]
    assert cell in line


def test_format_table__refuses():
    with pytest.raises(ValueError, match="unknown table style 'html'; expected text, markdown, latex, csv or json"):
        format_table(BOXES, "html")
    with pytest.raises(ValueError, match="no trial has finished"):
        format_table([])
