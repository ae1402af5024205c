"""The numbers of docs/results.md are those of the files that it links to."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mocodet.common.files import read_json
from tests.rehearsal import bank_ages, demo_seeds, small_scale

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "results.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| (.+) \|$", PAGE, flags=re.MULTILINE)]
METRICS = ("AP50", "AP", "AP75")
DETECTORS = {"Faster R-CNN FPN": "FPN", "FPN": "FPN", "Faster R-CNN dilated C5": "DC5", "Dilated C5": "DC5"}
STUDIES = {"1,000": "voc_fashion", "100": "voc_fashion_10"}
TRANSFER = [row for row in ROWS if row[0] in DETECTORS]
GAPS = [row for row in ROWS if " − " in row[0]]


def trials(study: str, detector: str, init: str, metric: str) -> np.ndarray:
    """Return a metric of a detector's trials from an initialisation, in the order of their seeds."""
    results = read_json(DOCS / "report" / study / "results.json")
    found = [trial for trial in results["trials"] if (trial["detector"], trial["init"]) == (detector, init.lower())]
    return np.array([trial["metrics"][f"bbox/{metric}"] for trial in sorted(found, key=lambda trial: trial["seed"])])


def numbers(cell: str) -> list[float]:
    return [float(number.replace("−", "-").replace(",", "")) for number in re.findall(r"[+−]?\d[\d,]*\.?\d*", cell)]


def study_of(row: list[str]) -> str:
    """Return the study that a row names as its record, or that of its labelled images."""
    named = re.search(r"report/(\w+)/results\.json", row[-1])
    return named[1] if named else STUDIES[row[1]]


def interval(gaps: np.ndarray) -> list[float]:
    return [gaps.mean(), *stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))]


def assert_gap(cell: str, gaps: np.ndarray) -> None:
    """Check the mean and the interval in a cell, which is bold if they show a difference of at least half a point."""
    expected = interval(gaps)
    assert numbers(cell) == [round(number, 1) for number in expected]
    assert cell.startswith("**") == (abs(expected[0]) >= 0.5 and expected[1] * expected[2] > 0)


def test_transfer__has_all_rows():
    assert len(TRANSFER) == 11
    assert {study_of(row) for row in TRANSFER} == {path.name for path in (DOCS / "report").iterdir()}


@pytest.mark.parametrize("row", TRANSFER, ids=lambda row: "-".join(row[:3]))
def test_transfer__the_numbers_are_those_of_the_trials(row):
    study, detector = study_of(row), DETECTORS[row[0]]
    for metric, cell in zip(METRICS, row[-4:-1], strict=True):
        if "±" in cell:
            values = trials(study, detector, row[2], metric)
            expected = [values.mean(), values.std(ddof=1)]
        else:
            expected = interval(trials(study, detector, "moco", metric) - trials(study, detector, "random", metric))
            assert cell.startswith("**") == (expected[0] >= 0.5 and expected[1] > 0)
        for found, number, text in zip(numbers(cell), expected, re.findall(r"\d+\.(\d+)", cell), strict=True):
            assert found == round(number, len(text)), (row, metric)


@pytest.mark.parametrize("row", GAPS, ids=lambda row: row[0])
def test_transfer__the_gaps_between_starts_are_those_of_the_trials(row):
    for metric, cell in zip(METRICS, row[-4:-1], strict=True):
        ours, theirs = (
            trials("voc_fashion" if init in ("MoCo", "random") else study_of(row), DETECTORS[row[1]], init, metric)
            for init in row[0].split(" − ")
        )
        assert_gap(cell, ours - theirs)


def test_demo__the_numbers_are_those_of_its_ten_seeds():
    studies = read_json(DOCS / "lab/records/demo/ten_seeds.json")
    assert list(studies) == [str(seed) for seed in range(10)]
    assert all(len(study["trials"]) == 6 for study in studies.values())
    # The page of the experiment contains the table that the command prints.
    assert set(demo_seeds.table(studies).splitlines()) <= set(
        (DOCS / "lab/demo.md").read_text(encoding="utf-8").splitlines()
    )

    (row,) = [row for row in ROWS if row[0] == "Ten seeds of images and pre-training"]
    for metric, cell in zip(METRICS, row[-4:-1], strict=True):
        means = {
            init: [
                np.mean([trial["metrics"][f"bbox/{metric}"] for trial in study["trials"] if trial["init"] == init])
                for study in studies.values()
            ]
            for init in ("moco", "random")
        }
        gaps = np.subtract(means["moco"], means["random"])
        assert gaps.mean() > 0
        assert_gap(cell, gaps)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("MoCo, `own_images_R_18`", "sharp_views/long.json"),
        ("MoCo, `own_images_R_18` with crops of 64 px", "sharp_views/crop_64.json"),
        ("MoCo, `toy_moco_v2_R_18`", "sharp_views/toy_30.json"),
        ("MoCo, blur up to 2 px", "own_images_R_18/metrics.json"),
        ("Dense contrast, blur up to 2 px", "dense_R_18/metrics.json"),
        ("Supervised", "supervised_R_18/metrics.json"),
    ],
)
def test_features__are_those_at_the_end_of_the_runs(name, record):
    (row,) = [row for row in ROWS if row[0] == name]
    assert record in row[-1]
    *_, last = (DOCS / "lab/records" / record).read_text(encoding="utf-8").splitlines()
    assert numbers(row[-2]) == [round(json.loads(last)["knn_top1"], 1)]


def test_features__are_those_of_the_runs_of_equal_time():
    results = read_json(DOCS / "lab/records/equal_time/results.json")
    page = (DOCS / "lab/equal_time.md").read_text(encoding="utf-8")
    assert small_scale.table(results) in page
    assert small_scale.table_of_means(results) in page
    assert small_scale.table_of_pairs(results) in page
    rows = {row[0].split(":")[0].strip("`"): row for row in ROWS if "equal_time" in row[-1]}
    assert rows.keys() == results.keys()
    for name, (_, *cells, _) in rows.items():
        for cell, (key, digits) in zip(cells, list(small_scale.COLUMNS.items())[1:], strict=True):
            expected = [round(results[name][key], digits)] if key in results[name] else []
            assert numbers(cell) == expected, (name, key)


def test_timeline__of_a_run_that_learns():
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    table = re.search(r"^\| Iterations \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    lines = (DOCS / "lab/records/sharp_views/long.json").read_text(encoding="utf-8").splitlines()
    found = {line["iteration"] + 1: line for line in map(json.loads, lines)}
    rows = table[1].splitlines()
    assert len(rows) == 7
    for iterations, loss, accuracy, in_batch, spread in map(numbers, rows):
        line = found[iterations]
        shares = [round(100 * line[key], 1) for key in ("accuracy", "accuracy_in_batch")]
        assert [round(line["loss"], 2), *shares, round(line["spread"], 2)] == [loss, accuracy, in_batch, spread]


def test_bank__the_page_shows_the_similarities_of_the_record():
    found = read_json(DOCS / "lab/records/bank_ages/ages.json")
    assert bank_ages.table(found) in (DOCS / "lab/bank_ages.md").read_text(encoding="utf-8")


def test_speed__the_step_on_the_gpu():
    (row,) = [row for row in ROWS if "on an H200" in row[0] and "images/s" in row[1]]
    records = read_json(DOCS / "lab/records/h200/step.json")
    (ours,) = [r for r in records if "8 BN groups" in r["contestant"] and r["settings"]["size"] == 224]
    rate, ratio, _ = numbers(row[1])
    assert (rate, ratio) == (round(ours["value"]), round(ours["ratio"]["median"], 2))


def test_rows__each_names_its_record():
    assert not [row for row in ROWS if not re.search(r"\]\(|`tests/|^Record$|^-+$|the same", row[-1])]
