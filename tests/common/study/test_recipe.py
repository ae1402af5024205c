import json

import pytest

from mocodet.common.study.recipe import (
    SCHEDULED_BY,
    WITHOUT_EFFECT,
    RecipeBook,
    differences,
    differences_from_config,
    plain,
)
from mocodet.detection.training.scaling import SCALED_KEYS, TIMED_KEYS


@pytest.fixture
def files(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 10, STEPS: '(5, 8)'}\nOUTPUT_DIR: x\n")
    (tmp_path / "a.pkl").write_bytes(b"first")
    (tmp_path / "b.pkl").write_bytes(b"first")
    (tmp_path / "moco.yaml").write_text(f"_BASE_: base.yaml\nMODEL: {{WEIGHTS: {tmp_path / 'a.pkl'}}}\n")
    return tmp_path


def recipe(files, name="moco.yaml", **opts):
    # As it comes back from trial.json.
    made = RecipeBook().recipe(files / name, {key.replace("__", "."): value for key, value in opts.items()})
    return json.loads(json.dumps(made))


def test_recipe__settings_and_weights(files):
    made = recipe(files, SOLVER__MAX_ITER="20", MOCO__DATASETS="[{'NAME': 'a'}]")
    assert made["settings"] == {
        "SOLVER.MAX_ITER": 20,
        "SOLVER.STEPS": [5, 8],
        "MODEL.WEIGHTS": str(files / "a.pkl"),
        "MOCO.DATASETS": [{"NAME": "a"}],
    }
    # of b"first", by sha256sum
    digest = "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"
    assert made["weights"] == {"path": str(files / "a.pkl"), "sha256": digest}
    assert recipe(files, MODEL__WEIGHTS="moco://v2_200ep")["weights"] == {"path": "moco://v2_200ep", "sha256": None}
    assert recipe(files, MODEL__WEIGHTS="")["weights"] is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"SOLVER__MAX_ITER": "10", "SOLVER__STEPS": "[5,8]"}, []),  # says what the config says
        ({"DATALOADER__NUM_WORKERS": "0", "SOLVER__CHECKPOINT_PERIOD": "50"}, []),  # the result is the same
        ({"SOLVER__MAX_ITER": "20"}, ["SOLVER.MAX_ITER was 10 and is now 20"]),
        ({"SOLVER__BASE_LR": "0.1"}, ["SOLVER.BASE_LR was not set and is now 0.1"]),
        ({"MODEL__WEIGHTS": "b.pkl"}, []),  # another name of the same contents
        ({"MODEL__WEIGHTS": "none.pkl"}, ["MODEL.WEIGHTS was a.pkl and is now none.pkl"]),
    ],
)
def test_differences__in_words(files, change, expected, monkeypatch):
    monkeypatch.chdir(files)
    (files / "moco.yaml").write_text("_BASE_: base.yaml\nMODEL: {WEIGHTS: a.pkl}\n")
    assert differences(recipe(files), recipe(files, **change)) == expected


def test_differences__of_changed_files(files):
    before = recipe(files)
    (files / "base.yaml").write_text("SOLVER: {MAX_ITER: 30, STEPS: '(5, 9)'}\n")
    (files / "a.pkl").write_bytes(b"second")
    assert differences(before, recipe(files)) == [
        "SOLVER.MAX_ITER was 10 and is now 30",
        "SOLVER.STEPS was [5, 8] and is now [5, 9]",
        f"the contents of {files / 'a.pkl'} have changed",
    ]
    (files / "base.yaml").write_text("SOLVER: {MAX_ITER: 10, STEPS: '(5, 8)'}\n")
    (files / "a.pkl").unlink()
    assert differences(before, recipe(files)) == []  # nothing is known against it


def test_differences__of_long_values_shows_where_they_differ():
    classes = [f"class_{number}" for number in range(40)]
    found, now = ({"settings": {"K": [*classes, last]}, "weights": None} for last in ("cat", "dog"))
    (line,) = differences(found, now)
    assert "cat'] and is now …" in line
    assert line.endswith("dog']")
    assert len(line) < 200


def test_differences_from_config(files):
    now = recipe(files, SOLVER__BASE_LR="0.1")
    saved = {
        "SOLVER": {"MAX_ITER": 10, "STEPS": [5, 8], "BASE_LR": 0.1, "GAMMA": 0.1},
        "MODEL": {"WEIGHTS": str(files / "a.pkl"), "DEVICE": "cpu"},
        "SEED": 3,
        "OUTPUT_DIR": "elsewhere",
    }

    def compared(**changes):
        (files / "config.yaml").write_text(json.dumps({**saved, **changes}))
        return differences_from_config(files, now, seed=3)

    assert compared() == []
    assert compared(SEED=4) == ["SEED was 4 and is now 3"]
    assert compared(SOLVER={"MAX_ITER": 20}) == [
        "SOLVER.MAX_ITER was 20 and is now 10",
        "SOLVER.STEPS was not set and is now [5, 8]",
        "SOLVER.BASE_LR was not set and is now 0.1",
    ]
    for part, words in (
        ({"TRAIN_FRACTION": 0.1}, "MOCO.TRAIN_FRACTION was 0.1 and is now 1.0"),
        ({"PASSES": 9}, "MOCO.PASSES was 9 and is now 0"),
    ):
        assert compared(MOCO=part) == [words]  # what the study leaves out means all labels
    assert compared(MOCO={"TRAIN_FRACTION": 1.0, "PASSES": 0}) == []
    now["settings"]["MOCO.PASSES"] = 20  # by which the training computes its schedule
    saved["MOCO"] = {"PASSES": 20}
    assert compared(SOLVER={"MAX_ITER": 700, "STEPS": [350, 560], "BASE_LR": 0.1}) == []
    (files / "config.yaml").write_text("a")
    with pytest.raises(ValueError, match=r"config.yaml contains a str; expected"):
        differences_from_config(files, now, seed=3)


def test_differences_from_config__what_training_scales_to_its_processes(files):
    now = recipe(files, SOLVER__REFERENCE_WORLD_SIZE="2", TEST__PRECISE_BN__NUM_ITER="200", SOLVER__GAMMA="0.1")
    computed = set(SCALED_KEYS) - set(WITHOUT_EFFECT) | {"SOLVER.REFERENCE_WORLD_SIZE"}
    assert computed == set(SCHEDULED_BY["SOLVER.REFERENCE_WORLD_SIZE"])
    assert set(TIMED_KEYS) - set(WITHOUT_EFFECT) == set(SCHEDULED_BY["MOCO.PASSES"])
    saved = {
        "SOLVER": {"MAX_ITER": 20, "STEPS": [10, 16], "REFERENCE_WORLD_SIZE": 1, "GAMMA": 0.2},
        "TEST": {"PRECISE_BN": {"NUM_ITER": 400}},
        "MODEL": {"WEIGHTS": str(files / "a.pkl")},
        "SEED": 3,
    }
    (files / "config.yaml").write_text(json.dumps(saved))
    assert differences_from_config(files, now, seed=3) == ["SOLVER.GAMMA was 0.2 and is now 0.1"]


def test_recipe__reads_lists_and_single_mappings_as_training_does(files):
    (files / "own.yaml").write_text("MOCO: {DATASETS: {NAME: a, SPLIT: b}}\nDATASETS: {TEST: [a]}\n")
    written = RecipeBook().recipe(files / "own.yaml", {})
    given = {"MOCO.DATASETS": "{NAME: a, SPLIT: b}", "DATASETS.TEST": "[a]"}
    assert RecipeBook().recipe(files / "own.yaml", given) == written
    assert written["settings"] == {"MOCO.DATASETS": [{"NAME": "a", "SPLIT": "b"}], "DATASETS.TEST": ["a"]}


def test_plain():
    assert plain("(1, 2)") == [1, 2]
    assert plain("[voc_2007_test]") == ["voc_2007_test"]
    assert plain({"a": ("b", "1e-3")}) == {"a": ["b", 1e-3]}
    assert [plain(text) for text in ("x", "", "True", "[1", None)] == ["x", "", True, "[1", None]
