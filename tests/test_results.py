"""The numbers of docs/results.md are those of the files that it links to."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "results.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| (.+) \|$", PAGE, flags=re.MULTILINE)]
METRICS = ("AP50", "AP", "AP75")
DETECTORS = {"Faster R-CNN FPN": "FPN", "FPN": "FPN", "Faster R-CNN dilated C5": "DC5", "Dilated C5": "DC5"}
STUDIES = {"1,000": "voc_fashion", "100": "voc_fashion_10"}
TRANSFER = [row for row in ROWS if row[0] in DETECTORS]


def trials(detector: str, labels: str, init: str, metric: str) -> np.ndarray:
    """Return a metric of a detector's trials from an initialisation, in the order of their seeds."""
    results = json.loads((DOCS / "report" / STUDIES[labels] / "results.json").read_text(encoding="utf-8"))
    found = [trial for trial in results["trials"] if (trial["detector"], trial["init"]) == (detector, init.lower())]
    return np.array([trial["metrics"][f"bbox/{metric}"] for trial in sorted(found, key=lambda trial: trial["seed"])])


def numbers(cell: str) -> list[float]:
    return [float(number.replace("−", "-").replace(",", "")) for number in re.findall(r"[+−]?\d[\d,]*\.?\d*", cell)]


def test_transfer__has_all_rows():
    assert len(TRANSFER) == 9
    assert {STUDIES[row[1]] for row in TRANSFER} == {path.name for path in (DOCS / "report").iterdir()}


@pytest.mark.parametrize("row", TRANSFER, ids=lambda row: "-".join(row[:3]))
def test_transfer__the_numbers_are_those_of_the_trials(row):
    detector, labels = DETECTORS[row[0]], row[1]
    for metric, cell in zip(METRICS, row[-4:-1], strict=True):
        if "±" in cell:
            values = trials(detector, labels, row[2], metric)
            expected = [values.mean(), values.std(ddof=1)]
        else:
            gaps = trials(detector, labels, "moco", metric) - trials(detector, labels, "random", metric)
            expected = [gaps.mean(), *stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))]
            assert cell.startswith("**") == (expected[0] >= 0.5 and expected[1] > 0)
        for found, number, text in zip(numbers(cell), expected, re.findall(r"\d+\.(\d+)", cell), strict=True):
            assert found == round(number, len(text)), (row, metric)


def test_features__the_small_recipe():
    (row,) = [row for row in ROWS if "`own_images_R_18`" in row[0]]
    *_, last = (DOCS / "lab/records/own_images_R_18/metrics.json").read_text(encoding="utf-8").splitlines()
    assert numbers(row[1]) == [round(json.loads(last)["knn_top1"], 1)]


def test_speed__the_step_on_the_gpu():
    (row,) = [row for row in ROWS if "on an H200" in row[0] and "images/s" in row[1]]
    records = json.loads((DOCS / "lab/records/h200/step.json").read_text(encoding="utf-8"))
    (ours,) = [r for r in records if "8 BN groups" in r["contestant"] and r["settings"]["size"] == 224]
    rate, ratio, _ = numbers(row[1])
    assert (rate, ratio) == (round(ours["value"]), round(ours["ratio"]["median"], 2))


def test_rows__each_names_its_record():
    assert not [row for row in ROWS if not re.search(r"\]\(|`tests/|^Record$|^-+$|the same", row[-1])]
