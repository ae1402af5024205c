"""The real command on a tiny data set: train in two processes, evaluate, resume; and refusals."""

import argparse
import json
import os
import re
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from mocodet.common.launch import launch
from mocodet.common.locks import claim
from mocodet.detection.training import run as cli
from tests.commands import parsed
from tests.commands import train as train_net
from tests.detection.tiny import CLASSES, make_coco, make_voc, new_name, options
from tests.encoders import checkpoint_of, encoder

CONFIG = "pascal_voc_R_50_DC5_24k_random.yaml"
FOR_FOUR = {"SOLVER__REFERENCE_WORLD_SIZE": 4, "SOLVER__IMS_PER_BATCH": 4, "SOLVER__MAX_ITER": 1}
TRAIN_NET = Path(__file__).parents[3] / "tools" / "train_net.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[dict, dict]:
    root = tmp_path_factory.mktemp("voc")
    return make_voc(root, 4, "train"), make_voc(root, 3, "test")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, str]:
    """Output folder and log of a run in two processes. One iteration for four becomes two, with half of its batch."""
    output = tmp_path_factory.mktemp("trained")
    flags = ["--config-file", CONFIG, "--num-gpus", "2", "--scale-to-gpus"]
    done = subprocess.run(
        [sys.executable, TRAIN_NET, *flags, *options(output, *data, **FOR_FOUR)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def setup(args: argparse.Namespace) -> CfgNode:
    cfg = cli.read_config(args)
    cli.setup(cfg, args)
    return cfg


def metrics(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def results(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def detections(output: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in (output / "inference").rglob("*.txt")}


def test_eval_only__needs_the_whole_detector(trained, data, tmp_path):
    weights = {"MODEL__WEIGHTS": str(trained[0] / "model_final.pth")}
    with pytest.raises(SystemExit, match=r"does not contain the complete detector; .*box_head.*fine-tuned"):
        train_net(["--config-file", CONFIG, "--eval-only",
                  *options(tmp_path, *data, **weights, MODEL__ROI_BOX_HEAD__FC_DIM=8)])  # fmt: skip
    assert not (tmp_path / "results.json").exists()


def test_setup__bad_overrides_are_one_line():
    with pytest.raises(SystemExit, match=r"^error: .*unknown key MODEL\.WEIGHT; did you mean MODEL\.WEIGHTS\?$"):
        train_net(["--config-file", CONFIG, "MODEL.WEIGHT", "x"])


def test_setup__a_config_runs_no_code(tmp_path):
    config = tmp_path / "evil.yaml"
    config.write_text(f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{tmp_path}/ran"]\n')
    with pytest.raises(SystemExit, match=r"^error: .*evil\.yaml, line 1: .*python/object/apply.*remove the tag$"):
        train_net(["--config-file", str(config)])
    assert not (tmp_path / "ran").exists()


def test_train__class_names_that_no_file_could_have(tmp_path):
    train, test = make_voc(tmp_path / "a", 2), make_voc(tmp_path / "b", 2, "test")
    for entry in (train, test):
        entry["CLASSES"] = ["T-shirt/top", "{dog}"]
        for path in Path(entry["ROOT"], "Annotations").iterdir():
            path.write_text(path.read_text().replace(">cat<", ">T-shirt/top<").replace(">dog<", ">{dog}<"))
    keys = {"SOLVER__MAX_ITER": 1, "TEST__PRECISE_BN__ENABLED": False}
    train_net(["--config-file", CONFIG, *options(tmp_path / "out{3}", train, test, **keys)])
    assert {"AP-T-shirt/top", "AP-{dog}"} <= set(results(tmp_path / "out{3}")[test["NAME"]]["bbox"])


@pytest.mark.parametrize("leaf", ["coco_R_50_C4_1x_random", "coco_R_50_FPN_1x_random"])
def test_train__every_base_config_trains_and_evaluates_masks(tmp_path, leaf):
    train, test = make_coco(tmp_path / "a", 2), make_coco(tmp_path / "b", 1)
    small = {"MODEL__ROI_MASK_HEAD__CONV_DIM": 8, "MODEL__ROI_MASK_HEAD__NUM_CONV": 1, "MODEL__FPN__OUT_CHANNELS": 16}
    keys = {"SOLVER__MAX_ITER": 1, "SOLVER__WARMUP_ITERS": 0, "TEST__PRECISE_BN__NUM_ITER": 1, **small}
    if "FPN" in leaf:
        keys["MODEL__ANCHOR_GENERATOR__SIZES"] = [[8], [16], [32], [64], [128]]
    train_net(["--config-file", f"{leaf}.yaml", *options(tmp_path / "out", train, test, **keys)])
    assert set(results(tmp_path / "out")[test["NAME"]]) == {"bbox", "segm"}
    state = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    norm = "roi_heads.res5.norm.weight" if "C4" in leaf else "backbone.fpn_output2.norm.weight"
    assert not torch.equal(state[norm], torch.ones_like(state[norm])), f"{norm} was not trained"


def test_train__two_processes(trained, data):
    output, log = trained
    assert "World size: 2" in log
    assert log.count("Evaluated each of the 3 images") == 1
    assert "CPUSyncBatchNorm" in log
    assert "(conv): Conv2d" in log
    assert list(results(output)) == [data[1]["NAME"]]
    assert any("total_loss" in line for line in metrics(output))
    assert list(output.glob("events.out.tfevents.*"))
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 1
    assert saved["classes"]["names"] == list(CLASSES)


def test_scale_to_gpus__before_and_after_are_shown_and_saved(trained):
    output, log = trained
    table = {
        key: values for key, *values in re.findall(r"^\| *([A-Z_.]+) *\| *(\S+) *\| *(\S+) *\|$", log, re.MULTILINE)
    }
    assert table["SOLVER.IMS_PER_BATCH"] == ["4", "2"]
    assert table["SOLVER.BASE_LR"] == ["0.02", "0.01"]
    assert table["SOLVER.MAX_ITER"] == ["1", "2"]
    saved = CfgNode.load_yaml_with_base(str(output / "config.yaml"))["SOLVER"]
    assert (saved["IMS_PER_BATCH"], saved["MAX_ITER"], saved["REFERENCE_WORLD_SIZE"]) == (2, 2, 2)
    # The warm-up, from a thousandth on, is longer than the two iterations; the second one is half-way through it.
    assert [line["lr"] for line in metrics(output) if "lr" in line][-1] == pytest.approx(0.01 * (1 + 0.001) / 2)


def test_scale_to_gpus__a_run_of_another_scale_is_not_resumed(trained, data):
    output, _ = trained
    before = (output / "config.yaml").read_text()
    with pytest.raises(SystemExit, match=r"batches of 2 images, .* batches of 1; resume it with 2 processes"):
        train_net(["--config-file", CONFIG, "--resume", "--scale-to-gpus", *options(output, *data, **FOR_FOUR)])
    assert (output / "config.yaml").read_text() == before


def test_run__a_refused_run_leaves_the_one_before(trained, data):
    output, _ = trained
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    with pytest.raises(SystemExit, match=r"^error: \S+ already contains a run's checkpoints; .*--resume, .*DIR$"):
        train_net(["--config-file", CONFIG, *options(output, *data)])
    assert {path: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    with pytest.raises(SystemExit, match=r"DATASETS contains nowhere"):
        train_net(["--config-file", CONFIG, "--resume", *options(output, *data, DATASETS__TRAIN=("nowhere",))])
    assert (output / "config.yaml").read_bytes() == before[output / "config.yaml"]


def test_eval_only__leaves_the_scale_of_the_training_to_be_resumed(data, tmp_path):
    def command(*flags: str, **keys: object) -> None:
        keys["TEST__PRECISE_BN__ENABLED"] = False
        train_net(["--config-file", CONFIG, *flags, *options(tmp_path, *data, **keys)])

    for_two = {"SOLVER__REFERENCE_WORLD_SIZE": 2}
    command("--scale-to-gpus", SOLVER__MAX_ITER=1, **for_two)
    trained = (tmp_path / "config.yaml").read_text()
    command("--eval-only", "--resume")
    assert (tmp_path / "config.yaml").read_text() == trained
    evaluated = CfgNode.load_yaml_with_base(str(tmp_path / "eval_config.yaml"))
    assert evaluated["SOLVER"]["IMS_PER_BATCH"] == 2
    with pytest.raises(SystemExit, match=r"for batches of 1 images, .* 2; resume it with 1 processes and --scale-to-g"):
        command("--resume")
    command("--resume", "--scale-to-gpus", SOLVER__MAX_ITER=2, **for_two)
    assert [line["iteration"] for line in metrics(tmp_path) if "total_loss" in line] == [1, 3]


@pytest.mark.parametrize(("flags", "keys"), [(["--scale-to-gpus"], {}), ([], {"SOLVER__REFERENCE_WORLD_SIZE": 8})])
def test_scale_to_gpus__the_papers_reference_or_the_configs(data, tmp_path, flags, keys):
    given = options(tmp_path, *data, SOLVER__IMS_PER_BATCH=16, **keys)
    solver = setup(parsed("train", ["--config-file", CONFIG, *flags, *given])).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (2, 0.02 / 8, 16)


def test_setup__a_schedule_in_passes_over_a_part_of_the_labels(data, tmp_path):
    """Scaled first: batches of 2, not 16; half of the four images, five times, is five of them."""
    keys = {"MOCO__TRAIN_FRACTION": 0.5, "MOCO__PASSES": 5, "SOLVER__IMS_PER_BATCH": 16, "SOLVER__STEPS": (1,)}
    keys["SEED"] = -1
    setup(parsed("train", ["--config-file", CONFIG, "--scale-to-gpus", *options(tmp_path, *data, **keys)]))
    saved = CfgNode.load_yaml_with_base(str(tmp_path / "config.yaml"))
    solver = saved["SOLVER"]
    assert (solver["IMS_PER_BATCH"], solver["MAX_ITER"], solver["STEPS"]) == (2, 5, [2])
    assert saved["SEED"] >= 0  # drawn
    assert re.search(r"MAX_ITER +\| 16 +\| 5 +\|", (tmp_path / "log.txt").read_text())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"SOLVER__MAX_ITER": 1},
            r"diverged at iteration 0: \d+ of \d+ tensors .*no checkpoint is written\. Start again",
        ),
        (
            {"SOLVER__MAX_ITER": 1, "TEST__PRECISE_BN__ENABLED": True},
            "diverged at iteration 0: .* Start again",
        ),
        (
            {"SOLVER__MAX_ITER": 2, "SOLVER__CHECKPOINT_PERIOD": 2},
            "diverged at iteration 1: .* Start again with a low",
        ),
    ],
)
def test_train__a_divergence_fails_before_its_weights_are_saved(data, tmp_path, capsys, keys, message):
    rates = {"SOLVER__BASE_LR": 1e38, "SOLVER__WEIGHT_DECAY": 1e9}
    keys = {"TEST__PRECISE_BN__ENABLED": False, "SOLVER__WARMUP_ITERS": 0} | rates | keys
    with pytest.raises(SystemExit, match=f"^error: training {message}"):
        train_net(["--config-file", CONFIG, *options(tmp_path, *data, **keys)])
    assert not list(tmp_path.glob("*.pth"))
    assert not (tmp_path / "results.json").exists(), "evaluated nevertheless"
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert status(tmp_path, "state", "last_checkpoint") == ("failed", None)
    assert status(tmp_path, "reason").startswith("training diverged")


def test_train__one_process_at_a_time_in_a_folder(data, tmp_path):
    with claim(tmp_path), pytest.raises(SystemExit, match=r"^error: another process .* choose another OUTPUT_DIR$"):
        train_net(["--config-file", CONFIG, *options(tmp_path, *data)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "keys", "message"),
    [
        (["--scale-to-gpus"], {}, "IMS_PER_BATCH 2 cannot be divided among the 8 processes"),
        ([], {"MOCO__ACCUMULATION": 0}, "ACCUMULATION must be at least 1"),
        ([], {"MOCO__ACCUMULATION": 3}, "IMS_PER_BATCH 2 .* 1 processes with 3 micro-batches each; .* multiple of 3"),
    ],
)
def test_setup__batches_that_do_not_divide(data, tmp_path, flags, keys, message):
    with pytest.raises(SystemExit, match=message):
        train_net(["--config-file", CONFIG, *flags, *options(tmp_path, *data, **keys)])


def test_scale_to_gpus__an_evaluation_has_no_schedule(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_net(["--config-file", CONFIG, "--scale-to-gpus", "--eval-only", *options(tmp_path, *data)])
    assert "cannot be combined with --eval-only" in capsys.readouterr().err


def test_eval_only__gives_the_training_runs_results(trained, data, tmp_path):
    output, _ = trained
    weights = str(output / "model_final.pth")
    with claim(tmp_path):  # another training run; this one only evaluates
        train_net(["--config-file", CONFIG, "--eval-only", *options(tmp_path, *data, MODEL__WEIGHTS=weights)])
    assert results(tmp_path) == results(output)
    # After two iterations most scores are 0 with any weights, but detections differ.
    found, expected = (detections(folder) for folder in (tmp_path, output))
    assert any(expected.values())
    assert found == expected
    assert not list(tmp_path.glob("*.pth"))


def test_eval_only__verifies_expected_results(trained, data, tmp_path):
    keys = {"MODEL__WEIGHTS": str(trained[0] / "model_final.pth"), "TEST__EXPECTED_RESULTS": [["bbox", "AP", 200, 1]]}
    with pytest.raises(SystemExit) as stopped:
        train_net(["--config-file", CONFIG, "--eval-only", *options(tmp_path, *data, **keys)])
    assert stopped.value.code == 1


def status(output: Path, *keys: str) -> tuple:
    return itemgetter(*keys)(json.loads((output / "status.json").read_text()))


def test_resume__continues_where_the_run_stopped(data, tmp_path):
    def train(*flags: str, **keys: object) -> None:
        kept = {"SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__CHECKPOINTS_KEPT": 1}
        opts = options(tmp_path, *data, TEST__PRECISE_BN__ENABLED=False, **kept, **keys)
        train_net(["--config-file", CONFIG, *flags, *opts])

    train(SOLVER__MAX_ITER=2)
    stopped = torch.load(tmp_path / "model_final.pth", weights_only=True)
    with (tmp_path / "metrics.json").open("a") as handle:
        handle.write('{"iteration": 2, "total_lo')  # the disk was full
    # The weights it began with are gone: a resumed run needs its own checkpoint only.
    asked = {"SOLVER__BASE_LR": 0.004, "SOLVER__WEIGHT_DECAY": 0.0, "SOLVER__STEPS": (), "SOLVER__WARMUP_ITERS": 0}
    train("--resume", SOLVER__MAX_ITER=3, MODEL__WEIGHTS="gone.pkl", **asked)
    resumed = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (stopped["iteration"], resumed["iteration"]) == (1, 2)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000002.pth", "model_final.pth"]
    loss = [line["total_loss"] for line in metrics(tmp_path) if "total_loss" in line][-1]
    said = status(tmp_path, "state", "step", "of", "last_checkpoint", "loss")
    assert said == ("finished", 3, 3, "model_final.pth", loss)
    counter = "backbone.bottom_up.stem.conv1.norm.num_batches_tracked"
    assert (stopped["model"][counter], resumed["model"][counter]) == (2, 3)
    optimizers = [content["trainer"]["_trainer"]["optimizer"] for content in (stopped, resumed)]
    assert optimizers[1]["state"].keys() == optimizers[0]["state"].keys() != set()
    # Rate and decay are those of this command, from the first step on.
    assert {group["weight_decay"] for group in optimizers[0]["param_groups"]} != {0.0}
    assert {group["weight_decay"] for group in optimizers[1]["param_groups"]} == {0.0}
    assert [line["lr"] for line in metrics(tmp_path) if "total_loss" in line][-1] == 0.004
    # A run that cannot resume with other classes is refused before anything is written.
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(SystemExit, match=r"NUM_CLASSES 2 there, 3 now\); to start from its weights"):
        train("--resume", SOLVER__MAX_ITER=4, MODEL__ROI_HEADS__NUM_CLASSES=3)
    other = [{**entry, "NAME": new_name(), "CLASSES": list(reversed(CLASSES))} for entry in data]
    train_set, test_set = ((entry["NAME"],) for entry in other)
    with pytest.raises(
        SystemExit, match=r"class 0 was cat, is now dog\); restore the .* CLASSES, or, .*model_final.pth$"
    ):
        train("--resume", SOLVER__MAX_ITER=4, MOCO__DATASETS=other, DATASETS__TRAIN=train_set, DATASETS__TEST=test_set)
    assert (tmp_path / "config.yaml").read_text() == before
    assert [line["iteration"] for line in metrics(tmp_path) if "total_loss" in line] == [1, 2]


def test_train__mask_rcnn_on_coco_in_grey(tmp_path):
    """From an unconverted encoder of grey images; a run in RGB is refused before it writes anything."""
    train, test = make_coco(tmp_path / "a", 2), make_coco(tmp_path / "b", 1)
    torch.save(checkpoint_of(encoder("resnet18", channels=1), "original"), tmp_path / "grey.pth")
    keys = {"MODEL__MASK_ON": True, "SOLVER__MAX_ITER": 1, "TEST__PRECISE_BN__ENABLED": False}
    keys["MODEL__WEIGHTS"] = str(tmp_path / "grey.pth")
    with pytest.raises(
        SystemExit, match=r"^error: .*trained on images of INPUT\.FORMAT L, .* RGB; set INPUT\.FORMAT L,"
    ):
        train_net(["--config-file", CONFIG, *options(tmp_path / "out", train, test, **keys)])
    assert not (tmp_path / "out" / "config.yaml").exists()
    grey = {"INPUT__FORMAT": "L", "MODEL__PIXEL_MEAN": [117.038], "MODEL__PIXEL_STD": [57.53]}
    train_net(["--config-file", CONFIG, *options(tmp_path / "out", train, test, **keys, **grey)])
    assert set(results(tmp_path / "out")[test["NAME"]]) == {"bbox", "segm"}
    state = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert state["backbone.bottom_up.stem.conv1.weight"].shape == (64, 1, 7, 7)


def test_setup__missing_weights_name_the_two_commands(data, tmp_path):
    opts = options(tmp_path, *data, MODEL__WEIGHTS="output/none.pkl")
    with pytest.raises(SystemExit, match=r"(?s)MODEL.WEIGHTS is output/none\.pkl.*mocodet pretrain .*mocodet convert "):
        train_net(["--config-file", CONFIG, *opts])
    with pytest.raises(SystemExit, match=r"/own_images_R_18\.yaml .*mocodet convert .* output/none\.pkl; or"):
        train_net(["--config-file", CONFIG, "--resume", *opts])
    with pytest.raises(SystemExit, match=r"^error: MODEL.WEIGHTS is .*none.pkl, which does not exist; specify"):
        train_net(["--config-file", CONFIG, "--eval-only", *opts])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"MOCO__AMP_DTYPE": "int8"}, "AMP_DTYPE must be one of bfloat16, float16, got 'int8'"),
        ({"SOLVER__CHECKPOINTS_KEPT": 0}, r"^error: SOLVER\.CHECKPOINTS_KEPT is 0; expected at least 1$"),
        ({"TEST__AUG__ENABLED": True}, "test-time augmentation is not supported"),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 20}, "has 2 classes, but"),
        ({"DATASETS__TRAIN": ()}, "specify a data set to train on"),
        ({"INPUT__CROP__ENABLED": True, "INPUT__CROP__TYPE": "absolute"}, "CROP.SIZE must be two positive integers"),
    ],
)
def test_setup__refuses(data, tmp_path, keys, message):
    with pytest.raises(SystemExit, match=message):
        train_net(["--config-file", CONFIG, *options(tmp_path, *data, **keys)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
def test_setup__falls_back_to_the_cpu(data, tmp_path):
    args = parsed("train", ["--config-file", CONFIG, *options(tmp_path, *data, MODEL__DEVICE="cuda")])
    configs_made = []
    args.num_gpus = 1
    launch(lambda parsed: configs_made.append(setup(parsed)), args, cli.read_config)
    assert configs_made[0].MODEL.DEVICE == "cpu"
    assert "CUDA is not available: running on the CPU" in (tmp_path / "log.txt").read_text()
