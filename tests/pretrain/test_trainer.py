"""The pre-training loop through its command: logs, checkpoints, resume, errors."""

import json
import math
import re
import shutil
import subprocess
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mocodet.common.locks import claim
from mocodet.common.report.pretrain import length_of_run
from mocodet.pretrain import run as cli
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.device import amp_dtype
from mocodet.pretrain.methods.shuffle_bn import bn_groups
from mocodet.pretrain.trainer import PretrainTrainer
from tests.checkpoints import assert_equal_states, copy_checkpoint
from tests.commands import convert, parsed
from tests.commands import pretrain as run_pretrain
from tests.processes import run_in_processes

IMAGES, BATCH, EPOCHS = 22, 8, 4  # two iterations an epoch, six images left over


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        noise = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 40)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(autouse=True)
def errors_as_raised(monkeypatch):
    """Make the command raise instead of exiting with the error's message."""
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")


def pretrain(images: Path, output: Path, *overrides: object, flags: tuple[str, ...] = ()) -> None:
    """Run the command in this process."""
    run_pretrain(arguments(images, output, overrides, flags))


def arguments(images: Path, output: Path, overrides: tuple = (), flags: tuple[str, ...] = ()) -> list[str]:
    """Write the config of a model small enough for a test; return the command's arguments."""
    config = output.parent / "small.yaml"
    config.write_text(
        f"""
        OUTPUT_DIR: {output}
        LOG_PERIOD: 1
        DATA: {{ROOT: {images}, NUM_WORKERS: 0}}
        AUGMENTATION: {{CROP_SIZE: 32}}
        MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu, BN_GROUPS: 2}}
        CONTRAST: {{QUEUE_SIZE: 20, MOMENTUM: 0.9}}
        SOLVER: {{IMS_PER_BATCH: {BATCH}, MAX_EPOCHS: {EPOCHS}, PRECISION: float32, CHECKPOINT_PERIOD: 3}}
        """
    )
    return ["--config-file", str(config), *flags, *map(str, overrides)]


def pretrain_in_process(given: list[str]) -> None:
    cli.run(parsed("pretrain", given))


@pytest.fixture(scope="module")
def whole_run(images, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    pretrain(images, output)
    return output


def test_run__leaves_checkpoints_and_logs(whole_run):
    assert {path.name for path in whole_run.glob("*.pth")} == {
        "model_0000002.pth",
        "model_0000005.pth",
        "model_final.pth",
    }
    assert (whole_run / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(whole_run.glob(".*tmp"))
    status = json.loads((whole_run / "status.json").read_text())
    expected = {"state": "finished", "step": 8, "of": 8, "last_checkpoint": "model_final.pth", "warnings": 1}
    assert {key: status[key] for key in expected} == expected
    assert list(whole_run.glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (whole_run / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(8))
    chance = {"loss_chance": math.log(21), "accuracy_chance": 1 / 21, "accuracy_in_batch_chance": 1 / BATCH}
    assert {name: value for name, value in lines[0].items() if "chance" in name} == pytest.approx(chance)
    assert not any("chance" in name for line in lines[1:] for name in line), "written once"
    events = EventAccumulator(str(whole_run)).Reload()
    for name, level in chance.items():
        line = events.Scalars(name)
        assert [event.step for event in line] == [0, 7], "as long as the run, and never backwards"
        assert [event.value for event in line] == pytest.approx([level, level])
    for line in lines[3:]:  # detectron2's timer lets three iterations pass
        assert {"loss", "accuracy", "lr", "images_per_second", "time", "data_time"} <= line.keys()
    progress = r"epoch 3\.50  iter 7/8  eta 0:00:00  [\d.]+ img/s"
    loss, accuracy = rf"loss \d\.\d{{3}} \(chance {math.log(21):.2f}\)", r"accuracy [\d.]+% \(4\.76%\)"  # of 20 + 1
    values = rf"{loss}  {accuracy}  accuracy_in_batch [\d.]+% \(12\.5%\)  lr 0\.004393  data_time \d\.\d{{3}}"
    log = (whole_run / "log.txt").read_text().rpartition("Starting training from iteration 0")[2]  # of this run
    assert re.search(f"{progress}  {values}", log)
    for iteration in (2, 5):  # a run that is killed in between resumes from the earlier checkpoint
        assert log.index(f"iter {iteration}/8") < log.index(f"model_{iteration:07d}.pth"), "values, then the checkpoint"


def test_log__tells_the_report_the_length_of_the_run(whole_run):
    assert length_of_run((whole_run / "log.txt").read_text()) == (IMAGES // BATCH, IMAGES // BATCH * EPOCHS)


def test_run__learns_the_encoder_and_fills_the_queue(whole_run):
    first, last = (torch.load(whole_run / f"model_{name}.pth", weights_only=True) for name in ("0000002", "final"))
    assert first["model"]["queue_ptr"].item() == 3 * BATCH % 20
    assert last["model"]["queue_ptr"].item() == 8 * BATCH % 20
    for name in ("encoder_q.conv1.weight", "encoder_k.conv1.weight", "encoder_q.fc.2.weight", "queue"):
        assert not torch.equal(first["model"][name], last["model"][name]), name


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param("model_0000002.pth", id="after 3 iterations, in mid-epoch"),
        pytest.param("model_0000005.pth", id="after 6 iterations, between epochs"),
    ],
)
def test_resume__is_bit_identical(images, whole_run, tmp_path, checkpoint):
    output = tmp_path / "run"
    output.mkdir()
    (output / checkpoint).write_bytes((whole_run / checkpoint).read_bytes())
    (output / "last_checkpoint").write_text(checkpoint)
    torch.manual_seed(99)  # earlier random numbers of the process must not matter
    log_before = (whole_run / "log.txt").read_text()
    pretrain(images, output, flags=("--resume",))
    found, expected = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (output, whole_run))
    assert_equal_states(found, expected)
    assert (output / "log.txt").read_text().count("iter 7/8") == 1
    assert (whole_run / "log.txt").read_text() == log_before  # that of another run, which has ended
    assert "WARNING" in log_before
    assert "WARNING" not in (output / "log.txt").read_text(), "the run already warned of its queue"


@pytest.mark.parametrize("views", [("DATA.AUGMENT", "pil"), ("DATA.AUGMENT", "device", "DATA.CACHE", "ram")])
def test_resume__is_bit_identical_wherever_views_are_made(images, tmp_path, views):
    pretrain(images, tmp_path / "whole", *views, "SOLVER.MAX_EPOCHS", 2, "SOLVER.CHECKPOINT_PERIOD", 3)
    copy_checkpoint(tmp_path / "whole", tmp_path / "run", "model_0000002.pth")
    overrides = (*views, "SOLVER.MAX_EPOCHS", 2, "DATA.NUM_WORKERS", 1)
    pretrain(images, tmp_path / "run", *overrides, flags=("--resume",))
    found, expected = (torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("run", "whole"))
    assert_equal_states(found, expected)
    with pytest.raises(ValueError, match=r"trained with DATA\.AUGMENT .*this run has DATA\.AUGMENT cpu"):
        pretrain(images, tmp_path / "run", "DATA.AUGMENT", "cpu", flags=("--resume",))


def test_resume__of_a_run_from_before_there_was_a_choice_goes_on_with_pillow(images, tmp_path):
    output = tmp_path / "run"
    pretrain(images, output, "DATA.AUGMENT", "pil", "SOLVER.MAX_EPOCHS", 1)
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint.pop("views") == {"augment": "pil", "cache_side": 0}
    assert checkpoint.pop("signs") == {"told": ["queue longer than the data"]}
    torch.save(checkpoint, output / "model_final.pth")
    config = (output / "config.yaml").read_text()
    (output / "config.yaml").write_text("".join(re.split(r"^  AUGMENT: pil\n", config, flags=re.MULTILINE)))
    pretrain(images, output, "SOLVER.MAX_EPOCHS", 2, flags=("--resume",))
    assert torch.load(output / "model_final.pth", weights_only=True)["views"]["augment"] == "pil"


def test_signs__are_in_the_checkpoint_for_the_converter(tmp_path):
    """Black images are detected at the fifth line of the log: in the iteration of the last checkpoint."""
    (tmp_path / "black").mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16)).save(tmp_path / "black" / f"{number:02}.png")
    output = tmp_path / "run"
    smaller = ("SOLVER.IMS_PER_BATCH", 4, "CONTRAST.QUEUE_SIZE", 16, "AUGMENTATION.CROP_SIZE", 16)
    smaller += ("SOLVER.CHECKPOINT_PERIOD", 100)
    pretrain(tmp_path / "black", output, *smaller, "SOLVER.MAX_EPOCHS", 1)
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["signs"] == {"told": ["constant images"]}
    weights = tmp_path / "weights.pkl"
    refusal = r"model_final\.pth: verification failed: its training warned of constant images: .* Check the files.*"
    with pytest.raises(ValueError, match=refusal + r"pre-train again .*--no-verify to convert"):
        convert([str(output / "model_final.pth"), str(weights)])
    assert not weights.exists()


def test_resume__two_processes_are_bit_identical(images, tmp_path):
    run_in_processes(pretrain_in_process, arguments(images, tmp_path / "whole"))
    expected = torch.load(tmp_path / "whole" / "model_final.pth", weights_only=True)
    assert len(expected["rng"]) == 2
    logs = [(tmp_path / "whole" / name).read_text() for name in ("log.txt", "log.txt.rank1")]
    assert [log.count("WARNING") for log in logs] == [1, 0], "about the queue, only once"
    copy_checkpoint(tmp_path / "whole", tmp_path / "run", "model_0000002.pth")
    run_in_processes(pretrain_in_process, arguments(images, tmp_path / "run", flags=("--resume",)))
    assert_equal_states(torch.load(tmp_path / "run" / "model_final.pth", weights_only=True), expected)
    with pytest.raises(ValueError, match=r"written by 2 process\(es\), but this run has 1; resume with --num-gpus"):
        pretrain(images, tmp_path / "run", flags=("--resume",))


def test_resume__obeys_a_changed_rate_and_length(images, whole_run, tmp_path):
    copy_checkpoint(whole_run, tmp_path / "run", "model_final.pth")
    changes = ("SOLVER.BASE_LR", 0.002, "SOLVER.LR_SCHEDULE", "step", "SOLVER.STEPS", "(5,)", "SOLVER.MAX_EPOCHS", 6)
    (tmp_path / "run" / "metrics.json").write_text('{"iteration": 7}\n{"iteration": 8, "lo')  # by a kill or a full disk
    pretrain(images, tmp_path / "run", *changes, "SOLVER.WEIGHT_DECAY", 0.0, flags=("--resume",))
    assert "an incomplete line of 20 bytes, which was removed" in (tmp_path / "run" / "log.txt").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["lr"] for line in lines if "loss" in line] == pytest.approx([0.002, 0.002, 0.0002, 0.0002])
    state = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["optimizer"]
    assert state["param_groups"][0]["weight_decay"] == 0.0


def test_resume__a_run_killed_before_its_final_checkpoint_gets_it(images, whole_run, tmp_path):
    output = tmp_path / "run"
    copy_checkpoint(whole_run, output, "model_final.pth")
    (output / "model_final.pth").rename(output / "model_0000007.pth")
    (output / "last_checkpoint").write_text("model_0000007.pth")
    pretrain(images, output, flags=("--resume",))
    found, expected = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (output, whole_run))
    assert_equal_states(found["model"], expected["model"])


def test_resume__an_extended_run_killed_before_its_final_checkpoint_gets_it(images, whole_run, tmp_path):
    """The final checkpoint of the shorter run still exists."""
    output = tmp_path / "run"
    copy_checkpoint(whole_run, output, "model_final.pth")
    shorter = torch.load(output / "model_final.pth", weights_only=True)
    torch.save({**shorter, "iteration": 3}, output / "model_final.pth")
    shutil.copy(whole_run / "model_final.pth", output / "model_0000007.pth")
    (output / "last_checkpoint").write_text("model_0000007.pth")
    pretrain(images, output, flags=("--resume",))
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == shorter["iteration"] == 7


def test_resume__keeps_a_drawn_seed(images, tmp_path):
    output = tmp_path / "run"
    pretrain(images, output, "SEED", -1, "SOLVER.MAX_EPOCHS", 1, "SOLVER.CHECKPOINT_PERIOD", 1)
    seed = torch.load(output / "model_final.pth", weights_only=True)["sampler"]["seed"]
    assert seed >= 0
    pretrain(images, output, "SEED", -1, "SOLVER.MAX_EPOCHS", 2, flags=("--resume",))
    assert torch.load(output / "model_final.pth", weights_only=True)["sampler"]["seed"] == seed


def test_checkpoints__the_newest_and_every_third_are_kept(images, tmp_path):
    keys = ("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_KEPT", 1, "SOLVER.CHECKPOINTS_KEPT_EVERY", 3)
    pretrain(images, tmp_path / "run", *keys)
    names = {path.name for path in (tmp_path / "run").glob("*.pth")}
    assert names == {"model_0000002.pth", "model_0000005.pth", "model_0000007.pth", "model_final.pth"}


_log = PretrainTrainer.log


def _log_as_on_cuda(trainer: PretrainTrainer, *args: object) -> None:
    if trainer.writes_log():
        _log(trainer, *args)


def test_log__a_line_holds_everything_every_period(images, tmp_path, monkeypatch):
    # As on CUDA, where values are read only when they are about to be written.
    monkeypatch.setattr(PretrainTrainer, "log", _log_as_on_cuda)
    pretrain(images, tmp_path / "run", "LOG_PERIOD", 3)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines][:2] == [2, 5]
    assert all({"loss", "accuracy", "lr"} <= line.keys() for line in lines)


def test_run__same_with_loader_processes_which_end_with_the_training(images, whole_run, tmp_path, monkeypatch):
    train, before, kept = PretrainTrainer.train, set(active_children()), []
    monkeypatch.setattr(PretrainTrainer, "train", lambda trainer: (kept.append(trainer), train(trainer)))
    pretrain(images, tmp_path / "run", "DATA.NUM_WORKERS", 2, "SOLVER.MAX_EPOCHS", 1, "SOLVER.CHECKPOINT_PERIOD", 1)
    assert set(active_children()) == before, kept
    pretrain(images, tmp_path / "again", "SOLVER.MAX_EPOCHS", 1, "SOLVER.CHECKPOINT_PERIOD", 1)
    found, expected = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("run", "again")
    )
    assert_equal_states(found, expected)


def test_start__refuses_the_folder_of_another_run(images, whole_run):
    def contents() -> dict[str, bytes]:
        kept = [path for path in whole_run.iterdir() if path.name != "log.txt" and "tfevents" not in path.name]
        return {path.name: path.read_bytes() for path in kept}

    before = contents()
    assert {"config.yaml", "run.json", "metrics.json", "last_checkpoint"} <= before.keys()
    with pytest.raises(FileExistsError, match="already contains a run's checkpoints"):
        pretrain(images, whole_run, "SOLVER.BASE_LR", 0.7)
    assert contents() == before


def test_start__refuses_the_folder_in_which_another_process_trains(images, tmp_path):
    with (
        claim(tmp_path / "run"),
        pytest.raises(BlockingIOError, match=r"^another process \(pid .*\) trains in .*; .*choose another OUTPUT_DIR$"),
    ):
        pretrain(images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.HEAD", "fc"), "does not fit this config's model: missing encoder_q.fc"),
        (("MODEL.DIM", 4), "does not fit this config's model: queue has shape"),
        (("SEED", 1), "resume with the same data"),
        (("SOLVER.IMS_PER_BATCH", 4), "resume with the same data"),
    ],
)
def test_resume__refuses_a_checkpoint_that_does_not_fit(images, whole_run, tmp_path, overrides, message):
    output = tmp_path / "run"
    output.mkdir()
    (output / "model_0000002.pth").write_bytes((whole_run / "model_0000002.pth").read_bytes())
    (output / "last_checkpoint").write_text("model_0000002.pth")
    with pytest.raises(ValueError, match=message):
        pretrain(images, output, *overrides, flags=("--resume",))


def test_resume__damaged_checkpoint_is_named_and_the_newest_whole_one(images, whole_run, tmp_path):
    output = tmp_path / "run"
    copy_checkpoint(whole_run, output, "model_0000002.pth")
    damaged = (whole_run / "model_0000005.pth").read_bytes()[:5000]
    for name in ("model_0000005.pth", "model_0000006.pth"):
        (output / name).write_bytes(damaged)
    (output / "last_checkpoint").write_text("model_0000006.pth")
    told = r"model_0000006\.pth cannot be read .*model_0000002\.pth, saved after 3 iterations; .* run  (.*)  and"
    with pytest.raises(ValueError, match=told) as caught:
        pretrain(images, output, flags=("--resume",))
    subprocess.run(re.search(told, str(caught.value))[1], shell=True, check=True)
    pretrain(images, output, flags=("--resume",))
    (output / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(FileNotFoundError, match=r"model_0000009\.pth does not exist, .*model_final\.pth, saved after"):
        pretrain(images, output, flags=("--resume",))
    for path in output.glob("*.pth"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"No other checkpoint in .* is intact; start again"):
        pretrain(images, output, flags=("--resume",))


def test_run__diverging_loss_is_an_error(images, tmp_path, capsys):
    with pytest.raises(FloatingPointError, match=r"training diverged at iteration 0: .*no checkpoint is written"):
        pretrain(images, tmp_path / "run", "SOLVER.BASE_LR", 1e38, "SOLVER.CHECKPOINT_PERIOD", 1)
    assert not list((tmp_path / "run").glob("*.pth")), "weights that are not finite must not become a checkpoint"
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert (tmp_path / "run" / "log.txt").read_text().count("Traceback") == 1
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["step"], status["last_checkpoint"]) == ("failed", 0, None)
    assert status["reason"].startswith("training diverged at iteration 0: ")


def test_run__bfloat16_autocast_trains_float32_weights(images, tmp_path):
    pretrain(images, tmp_path / "run", "SOLVER.PRECISION", "bfloat16", "SOLVER.MAX_EPOCHS", 1)
    state = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert {tensor.dtype for name, tensor in state.items() if tensor.is_floating_point()} == {torch.float32}


def test_bn_groups__defaults_and_refusals():
    cfg = get_cfg()
    assert bn_groups(cfg) == 8
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ValueError, match=r"12 images per batch .* cannot be divided into 8 batch-norm groups"):
        bn_groups(cfg)
    cfg.MODEL.BN_GROUPS = 12
    with pytest.raises(ValueError, match=r"groups of two or more"):
        bn_groups(cfg)


def test_amp_dtype__float16_needs_cuda():
    cfg = get_cfg()
    cfg.SOLVER.PRECISION = "float16"
    with pytest.raises(ValueError, match="float16 requires CUDA"):
        amp_dtype(cfg, torch.device("cpu"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATA.ROOT", "", "DATA.ROOT is ''; expected a folder of images"),
        ("DATA.ROOT", "no/such/folder", "is not a folder"),
        ("CONTRAST.TEMPERATURE", 0.0, "CONTRAST.TEMPERATURE is 0.0; expected a positive number"),
        ("SOLVER.LR_SCHEDULE", "linear", "SOLVER.LR_SCHEDULE is 'linear'; expected one of 'step', 'cosine'"),
        ("SOLVER.IMS_PER_BATCH", 64, "22 images, fewer than one batch"),
        ("SOLVER.STEPS", "(160, 120)", "expected epochs in increasing order"),
        ("SOLVER.CHECKPOINT_PERIOD", -1, "SOLVER.CHECKPOINT_PERIOD is -1; expected at least 0"),
        ("MODEL.ARCH", "vgg16", "MODEL.ARCH is 'vgg16'; expected one of 'resnet18'"),
        ("CONTRAST.TAU", 0.2, "unknown key CONTRAST.TAU; did you mean"),
    ],
)
def test_setup__bad_values_are_named(images, tmp_path, key, value, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("(", r"\(")):
        pretrain(images, tmp_path / "run", key, value)


def test_setup__empty_config(tmp_path):
    (tmp_path / "empty.yaml").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.yaml is empty; expected a YAML config"):
        run_pretrain(["--config-file", str(tmp_path / "empty.yaml")])
