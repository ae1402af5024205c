import json
import random
import statistics

import numpy as np
import pytest
from scipy import stats

from mocodet.common.matches import read_matches
from mocodet.common.report.numbers import between, fixed, signed
from mocodet.common.report.precision_recall import RECALLS, _thresholds, precision_at
from mocodet.common.report.read import Trial, read_study
from mocodet.common.report.run import report
from mocodet.common.report.study_charts import class_metrics

from .made_up import CLASSES, make_matches, write_study
from .pages import check_page


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of one detector with two label fractions, its results, and the files of its report."""
    folder = tmp_path_factory.mktemp("study")
    content = write_study(folder, detectors=("FPN",), seeds=2)
    files = {path.name: path.read_text() for path in report(folder)}
    return folder, content, files


def test_classes__of_semantic_segmentation_have_an_iou(tmp_path):
    lines = [{"sem_seg/mIoU": 50.0, "sem_seg/IoU-cat": 60.0, "sem_seg/ACC-cat": 70.0, "iteration": 9}]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {"sem_seg/mIoU": 50.0}
    trial = Trial("FCN", "moco", 1.0, 0, "finished", None, metrics, None, [], tmp_path)
    assert class_metrics(trial) == {"cat": 60.0}


def test_precision_recall__names_the_overlap():
    found = make_matches(0.5, random.Random(0))
    assert list(_thresholds(found, "OKS")) == ["OKS 0.5", "OKS 0.75", "OKS 0.5 to 0.95, mean"]


def values_of(content, init, fraction, key):
    return {
        trial["seed"]: trial["metrics"][key]
        for trial in content["trials"]
        if (trial["init"], trial["fraction"], trial["status"]) == (init, fraction, "finished")
    }


def test_page_of_a_study__every_number_of_the_results(study):
    _, content, files = study
    page = check_page(files["report.html"])
    cells = [" ".join(cell.split()) for cell in page.cells]
    for fraction in content["fractions"]:
        for init in content["inits"]:
            row = cells.index(init, cells.index("all labels" if fraction == 1 else "10 % of the labels"))
            for place, key in enumerate(("bbox/AP50", "bbox/AP", "bbox/AP75")):
                own, base = (values_of(content, name, fraction, key) for name in (init, "random"))
                expected = fixed(statistics.fmean(own.values()))
                if len(own) > 1:
                    expected += f" ± {fixed(statistics.stdev(own.values()))}"
                shared = [seed for seed in own if seed in base]
                if init != "random":
                    gaps = [own[seed] - base[seed] for seed in shared]
                    expected += signed(statistics.fmean(gaps))
                    if len(gaps) > 1:
                        interval = stats.ttest_rel([own[s] for s in shared], [base[s] for s in shared])
                        low, high = interval.confidence_interval(0.95)
                        expected += f" {between(low, high)}images ["
                assert cells[row + 2 + place].startswith(expected), (init, fraction, key)
    for trial in content["trials"]:
        for value in trial["metrics"].values():
            assert fixed(value, 2) in cells
    assert (
        "1 detector × 3 initialisations × 2 label fractions × 2 seeds: 12 trials, 11 finished, 1 failed." in page.text
    )
    assert cells.count("1 of 2") == 1


def test_page_of_a_study__failures_names_and_how_it_was_made(study):
    _, content, files = study
    page = check_page(files["report.html"])
    assert "FPN, dense, all labels, seed 1 Loss became infinite <at 7> & so on" in page.text
    assert "made-up <study>" in page.text
    for text in ("torch 2.10", f"output/moco.pkl, SHA-256 {'ab' * 32}"):
        assert text in page.text
    for init in content["inits"]:
        assert (
            f"# FPN from {init}, 10 % of the labels, seed 0 mocodet train --config-file coco_R_50_FPN_1x_{init}"
            in page.text
        )
    assert list(page.all("h2"))
    assert [a["href"] for a in page.all("a")] == [f"#{h2['id']}" for h2 in page.all("h2")]
    assert len(files["report.html"].encode()) < 3_000_000


def test_page_of_a_study__charts(study):
    _, _, files = study
    page = check_page(files["report.html"])
    titles = [svg.get("aria-label") for svg in page.all("svg")]
    for metric in ("AP50", "AP", "AP75"):
        assert titles.count(f"{metric} over the label fraction, FPN") == 1
        for labels in ("All labels", "10 % of the labels"):
            assert titles.count(f"{metric} over iterations, {labels}") == 1
    for name in ("Loss", "Learning rate"):
        assert titles.count(f"{name} over iterations, All labels") == 1
    assert titles.count("Gaps in AP by class: moco − random, FPN") == 1
    assert [title for title in titles if title and title.startswith("Precision over recall: All labels")] == [
        f"Precision over recall: All labels, {title}, mean over classes, {title}"
        for title in ("IoU 0.5", "IoU 0.75", "IoU 0.5 to 0.95, mean")
    ] + [f"Precision over recall: All labels, class, {name}" for name in CLASSES]
    assert "absent" not in page.text  # a class without ground truth has no AP


def test_page_of_a_study__the_same_images(study):
    _, _, files = study
    page = check_page(files["report.html"])
    assert len(page.all("image")) == 2  # each once, however often it is shown
    labels = [svg["aria-label"] for svg in page.all("svg") if (svg.get("aria-label") or "").startswith("000001")]
    assert labels == ["000001, ground truth: 2 objects"] + [
        f"000001, {init}: 1 of 2 found, 1 false" for init in ("random", "moco", "dense")
    ]
    assert [use["href"] for use in page.all("use")] == ["#image-1"] * 4 + ["#image-2"] * 4


def test_page_of_a_study__without_images(study, tmp_path):
    folder, content, _ = study
    page = check_page(report(folder, tmp_path, with_images=False)[0].read_text())
    assert page.all("image") == []
    assert fixed(values_of(content, "moco", 1.0, "bbox/AP")[0]) in page.text


def test_report__tables_beside_the_page(study):
    _, content, files = study
    assert list(files) == ["report.html", "report.txt", "report.md", "report.tex", "report.csv", "report.json"]
    mean = statistics.fmean(values_of(content, "moco", 1.0, "bbox/AP50").values())
    assert all(f"{mean:.1f}" in files[name] for name in ("report.md", "report.tex"))
    json.loads(files["report.json"])


def test_report__older_results(tmp_path):
    content = write_study(tmp_path, detectors=("FPN",), fractions=(1.0,), seeds=1)
    (tmp_path / "results.json").write_text(json.dumps({"reference": "random", "results": {}}))
    with pytest.raises(ValueError, match=r"results.json has version None, but mocodet supports only version 2; run"):
        report(tmp_path)
    waiting = [{**trial, "status": "waiting", "metrics": {}} for trial in content["trials"]]
    (tmp_path / "results.json").write_text(json.dumps({**content, "trials": waiting}))
    with pytest.raises(ValueError, match=r"no trial of the study .* has finished yet"):
        report(tmp_path)
    (tmp_path / "results.json").write_text('{"version": 2')
    with pytest.raises(ValueError, match=r"results.json is not JSON"):
        report(tmp_path)


def test_read_study__leaves_out_metrics_that_no_table_has(tmp_path):
    content = write_study(tmp_path, detectors=("FPN",), fractions=(1.0,), seeds=1)
    expected = read_study(tmp_path).metrics("FPN", 1.0)
    trials = [{**trial, "metrics": {"another": 1.0, **trial["metrics"]}} for trial in content["trials"]]
    (tmp_path / "results.json").write_text(json.dumps({**content, "trials": trials}))
    assert read_study(tmp_path).metrics("FPN", 1.0) == expected != []
    report(tmp_path, with_images=False)


def test_precision_at__mean_over_recalls_is_average_precision(study):
    folder, content, _ = study
    found = read_matches(folder / content["trials"][0]["folder"] / "matches.npz")["bbox"]
    for index in range(len(CLASSES)):
        recall, precision, _ = found.curve(index, 0.5)
        slow = [
            max((p for r, p in zip(recall, precision, strict=True) if r >= at - 1e-9), default=0.0) for at in RECALLS
        ]
        assert precision_at(recall, precision).tolist() == pytest.approx(slow)
        fine = np.interp(np.linspace(0, 1, 101), RECALLS, precision_at(recall, precision)).mean()
        assert fine == pytest.approx(found.average_precisions()[index, 0, 0], abs=0.02)
