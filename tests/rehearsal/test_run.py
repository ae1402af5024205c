import json

import pytest

from tests.rehearsal import Outcome, leaf_configs, make_stand_ins, rehearse, run
from tests.rehearsal.layouts import make_layouts
from tests.rehearsal.narrow import narrow_file, narrow_options
from tests.rehearsal.stand_ins import StandIn

# One config for each task and model, with different variants; `python -m tests.rehearsal` runs all of them.
SHORT = (
    "cityscapes_R_50_FCN_90k",
    "cityscapes_R_50_FPN_24k_moco",
    "coco_R_50_C4_1x_random",
    "coco_R_50_FPN_2x_moco",
    "coco_keypoints_R_50_FPN_2x",
    "lvis_v0.5_R_50_FPN_2x_frozen_bn",
    "lvis_v0.5_R_50_FPN_2x_moco",
    "pascal_voc_R_50_C4_24k_moco",
    "pascal_voc_R_50_DC5_24k_coco",
    "pascal_voc_R_50_FCN_30k_moco",
    "toy_R_18_FPN_moco",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("rehearsal")
    make_layouts(root / "datasets", size=run.IMAGE_SIZE, train=6, val=2)
    return root


@pytest.fixture(scope="module")
def stand_ins(folder):
    made = make_stand_ins(folder / "weights")
    for kind in ("supervised", "moco", "coco"):
        narrow_file(made[kind].file)
    return made


def test_short__has_every_kind_of_task():
    def task(name: str) -> str:
        for ending in ("_coco", "_moco", "_random", "_1x", "_2x"):
            name = name.removesuffix(ending)
        return name

    tasks = {task(leaf.stem) for leaf in leaf_configs()}
    # The configs of VOC 2007 and of the user's own data differ only in their data. DensePose requires a project that is
    # not available from the package registry.
    left_out = {"pascal_voc07_R_50_C4_9k", "own_data_R_50_FPN", "coco_densepose_R_50_FPN_s1x"}
    assert {task(name) for name in SHORT} == tasks - left_out


def test_rehearse__every_kind_of_task_trains_resumes_and_evaluates(folder, stand_ins):
    leaves = [leaf for leaf in leaf_configs() if leaf.stem in SHORT]
    assert len(leaves) == len(SHORT)
    outcomes = rehearse(leaves, folder / "datasets", stand_ins, folder / "runs", narrow_options)
    assert {outcome.config: outcome.outcome for outcome in outcomes} == dict.fromkeys(SHORT, "ok")
    tasks = {outcome.config: set(outcome.metrics) for outcome in outcomes}
    assert tasks["coco_keypoints_R_50_FPN_2x"] == {"bbox", "keypoints"}
    assert tasks["lvis_v0.5_R_50_FPN_2x_moco"] == tasks["coco_R_50_FPN_2x_moco"] == {"bbox", "segm"}
    assert tasks["pascal_voc_R_50_FCN_30k_moco"] == {"sem_seg"}


def test_run_config__a_failure_is_an_outcome(tmp_path):
    (leaf,) = (leaf for leaf in leaf_configs() if leaf.stem == "coco_R_50_FPN_1x_moco")
    outcome = run.run_config(leaf, StandIn(str(tmp_path / "gone.pkl"), "none"), {}, tmp_path)
    assert outcome.outcome.startswith("FAILED")
    assert "gone.pkl" in outcome.outcome


def test_run_config__keeps_its_hands_off_other_folders(tmp_path):
    (tmp_path / "coco_R_50_FPN_1x").mkdir()
    (tmp_path / "coco_R_50_FPN_1x" / "model_final.pth").write_bytes(b"weeks of training")
    (leaf,) = (leaf for leaf in leaf_configs() if leaf.stem == "coco_R_50_FPN_1x")
    outcome = run.run_config(leaf, StandIn("", "none"), {}, tmp_path)
    assert "was not created by a rehearsal; choose another --output" in outcome.outcome
    assert (tmp_path / "coco_R_50_FPN_1x" / "model_final.pth").read_bytes() == b"weeks of training"


def finished_run(folder, *, started=(0, 3), iterations=(2, 4), evaluated=5.0, predicted=("a",)):
    for run_folder, ap, found in ((folder, 5.0, ["a"]), (folder / "eval", evaluated, list(predicted))):
        (run_folder / "inference").mkdir(parents=True)
        (run_folder / "results.json").write_text(json.dumps({"data": {"bbox": {"AP": ap}}}))
        (run_folder / "inference" / "instances.json").write_text(json.dumps(found))
    steps = [{"iteration": number, "total_loss": 1.0, "time": 0.1} for number in iterations]
    (folder / "log.txt").write_text("".join(f"d2: Starting training from iteration {start}\n" for start in started))
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, steps)))


def test_read_results__a_good_run(tmp_path):
    finished_run(tmp_path)
    outcome = Outcome("config", "none")
    run.read_results(outcome, tmp_path)
    assert (outcome.loss, outcome.metrics, outcome.predictions) == (1.0, {"bbox": 5.0}, 1)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"started": (0, 0)}, r"did not continue where the first one stopped: runs from \[0, 0\] to \[3, 5\]"),
        ({"iterations": (2, 2)}, "did not continue where the first one stopped"),
        ({"iterations": (2,)}, "did not continue where the first one stopped"),
        ({"evaluated": 4.0}, "results of --eval-only differ"),
        ({"predicted": ("b",)}, "results of --eval-only differ"),
    ],
)
def test_read_results__a_bad_run(tmp_path, broken, message):
    finished_run(tmp_path, **broken)
    with pytest.raises(RuntimeError, match=message):
        run.read_results(Outcome("config", "none"), tmp_path)
