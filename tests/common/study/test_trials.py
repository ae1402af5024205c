from pathlib import Path

import pytest

from mocodet import configs
from mocodet.common.study.spec import Detector, Init, Study
from mocodet.common.study.trials import percent, plan


def study(**changes):
    parts = {
        "name": "x",
        "detectors": {
            "FPN": Detector("coco_R_50_FPN_1x.yaml", {"A": "1", "B": "1", "C": "1"}),
            "own": Detector("my.yaml"),
        },
        "inits": {
            "supervised": Init("supervised"),
            "moco": Init("moco", weights="mine.pkl", opts={"C": "3"}),
            "other": Init(config="pascal_voc_R_50_C4_24k.yaml"),
        },
        "reference": "moco",
        "seeds": (4, 2),
        "opts": {"A": "0", "B": "0", "D": "0"},
    }
    return Study(**{**parts, "detectors": parts["detectors"], **changes})


def test_plan__seed_by_seed():
    names = [str(trial) for trial in plan(study(fractions=(0.1, 1.0)), Path("out"))]
    assert names[:7] == [
        "FPN, supervised, 10 % of the labels, seed 4",
        "FPN, moco, 10 % of the labels, seed 4",
        "FPN, other, 10 % of the labels, seed 4",
        "FPN, supervised, seed 4",
        "FPN, moco, seed 4",
        "FPN, other, seed 4",
        "own, supervised, 10 % of the labels, seed 4",
    ]
    assert len(names) == len(set(names)) == 24


def test_plan__folders_and_configs():
    trials = {(trial.detector, trial.init): trial for trial in plan(study(seeds=(0,), fractions=(0.005,)), Path("out"))}
    assert trials["FPN", "moco"].folder == Path("out/FPN/moco/labels_0.5/seed_0")
    assert {key: trial.config for key, trial in trials.items()} == {
        ("FPN", "supervised"): configs.path("coco_R_50_FPN_1x.yaml"),
        ("FPN", "moco"): configs.path("coco_R_50_FPN_1x_moco.yaml"),
        ("FPN", "other"): configs.path("pascal_voc_R_50_C4_24k.yaml"),
        ("own", "supervised"): Path("my.yaml"),  # which is nowhere
        ("own", "moco"): Path("my_moco.yaml"),
        ("own", "other"): configs.path("pascal_voc_R_50_C4_24k.yaml"),
    }


def test_plan__a_file_of_ones_own_comes_before_mocodets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("coco_R_50_FPN_1x_moco.yaml").write_text("VERSION: 2\n")
    assert plan(study(), Path("out"))[1].config == Path("coco_R_50_FPN_1x_moco.yaml")


@pytest.mark.parametrize(
    ("changes", "init", "expected"),
    [
        ({}, "supervised", {"A": "1", "B": "1", "C": "1", "D": "0"}),
        ({}, "moco", {"A": "1", "B": "1", "C": "3", "D": "0", "MODEL.WEIGHTS": "mine.pkl"}),
        (
            {"fractions": (0.25,), "passes": 20, "min_iters": 9, "detectors": {"own": Detector("my.yaml")}},
            "supervised",
            {
                **{"A": "0", "B": "0", "D": "0"},
                **{
                    "MOCO.TRAIN_FRACTION": "0.25",
                    "MOCO.FRACTION_SEED": "4",
                    "MOCO.PASSES": "20",
                    "MOCO.MIN_ITERS": "9",
                },
            },
        ),
    ],
)
def test_plan__overrides(changes, init, expected):
    trial = next(trial for trial in plan(study(**changes), Path("out")) if trial.init == init)
    assert trial.opts == expected
    words = trial.words()
    names = {"supervised": "coco_R_50_FPN_1x.yaml", "moco": "coco_R_50_FPN_1x_moco.yaml"}  # where they lie is not said
    assert words[:2] == ["--config-file", "my.yaml" if "detectors" in changes else names[init]]
    assert dict(zip(words[2::2], words[3::2], strict=True)) == {
        **expected,
        "OUTPUT_DIR": str(trial.folder),
        "SEED": "4",
    }


def test_plan__one_detector_is_not_named():
    assert str(plan(study(detectors={"a": Detector("a.yaml")}), Path("out"))[0]) == "supervised, seed 4"


def test_percent():
    assert [percent(fraction) for fraction in (1.0, 0.1, 0.07, 0.005, 1 / 3)] == ["100", "10", "7", "0.5", "33.3333"]
