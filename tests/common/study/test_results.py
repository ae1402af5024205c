from pathlib import Path

from mocodet.common.study.results import results
from mocodet.common.study.spec import Detector, Init, Study
from mocodet.common.study.state import Outcome
from mocodet.common.study.trials import plan

STUDY = Study(
    "toy",
    {"A": Detector("a.yaml"), "B": Detector("b.yaml")},
    {"moco": Init("moco"), "coco": Init("coco"), "random": Init("random")},
    "random",
    seeds=(3,),
)


def test_results__say_how_each_trial_stands_and_its_weights():
    trials = plan(STUDY, Path("out"))
    weights = {
        "moco": {"path": "m.pkl", "sha256": "1"},  # one file for both detectors
        "coco": {"A": {"path": "a.pkl", "sha256": "2"}, "B": {"path": "b.pkl", "sha256": "3"}},
    }
    recipes = {
        trial: {"weights": weights["coco"][trial.detector] if trial.init == "coco" else weights.get(trial.init)}
        for trial in trials
    }
    outcomes = {
        trials[0]: Outcome("finished", metrics={"bbox/AP": 1.5}, seconds=60.0, whole=True),
        trials[1]: Outcome("failed", "exit status 1: no", seconds=6.0, whole=True),
        trials[3]: Outcome("finished", metrics={"bbox/AP": 2.5}, seconds=7.0, whole=False),  # of the last process
    }
    content = results(STUDY, Path("out"), recipes, outcomes, running=[trials[2]])
    found = [(row["status"], row["reason"], row["metrics"], row["seconds"]) for row in content["trials"]]
    assert found == [
        ("finished", None, {"bbox/AP": 1.5}, 60.0),
        ("failed", "exit status 1: no", {}, 6.0),
        ("running", None, {}, None),
        ("finished", None, {"bbox/AP": 2.5}, None),
        *[("waiting", None, {}, None)] * 2,
    ]
    keys = ("detector", "init", "fraction", "seed", "folder")
    assert [content["trials"][4][key] for key in keys] == ["B", "coco", 1.0, 3, "B/coco/labels_100/seed_3"]
    assert content["trials"][0]["command"] == [
        *("mocodet", "train", "--config-file", "a_moco.yaml"),
        *("OUTPUT_DIR", "out/A/moco/labels_100/seed_3", "SEED", "3"),
    ]
    assert content["weights"] == {
        "moco": weights["moco"],
        "coco (A)": weights["coco"]["A"],
        "coco (B)": weights["coco"]["B"],
    }
    assert [content[key] for key in ("name", "reference", "detectors", "inits")] == [
        *("toy", "random", ["A", "B"], ["moco", "coco", "random"])
    ]
