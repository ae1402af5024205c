"""The pre-training loop through its command: logs, checkpoints, resume, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mocodet.pretrain import cli
from mocodet.pretrain.build import amp_dtype, bn_groups
from mocodet.pretrain.config import get_cfg

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
    """Let the command raise, where it would exit with the error's message."""
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")


def pretrain(images: Path, output: Path, *overrides: object, flags: tuple[str, ...] = ()) -> None:
    """Run the command in this process, as `mocodet-pretrain` does, on a model small enough for a test."""
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
    cli.main(["--config-file", str(config), *flags, *map(str, overrides)])


def assert_equal_states(one: object, other: object, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal_states(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal_states(a, b, f"{where}/{number}")
    else:
        assert one == other, where


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
    assert list(whole_run.glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (whole_run / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(8))
    for line in lines[3:]:  # detectron2's timer lets three iterations pass
        assert {"loss", "accuracy", "lr", "images_per_second", "time", "data_time"} <= line.keys()
    log = (whole_run / "log.txt").read_text()
    assert "iter 7/8" in log
    assert "img/s" in log


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
    torch.manual_seed(99)  # whatever the process did before must not matter
    pretrain(images, output, flags=("--resume",))
    found, expected = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (output, whole_run))
    assert_equal_states(found, expected)


def test_run__same_with_loader_processes(images, whole_run, tmp_path):
    pretrain(images, tmp_path / "run", "DATA.NUM_WORKERS", 2, "SOLVER.MAX_EPOCHS", 1, "SOLVER.CHECKPOINT_PERIOD", 1)
    pretrain(images, tmp_path / "again", "SOLVER.MAX_EPOCHS", 1, "SOLVER.CHECKPOINT_PERIOD", 1)
    found, expected = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("run", "again")
    )
    assert_equal_states(found, expected)


def test_start__refuses_the_folder_of_another_run(images, whole_run):
    before = {path.name: path.read_bytes() for path in whole_run.glob("*.pth")}
    with pytest.raises(FileExistsError, match="already holds a run's checkpoints"):
        pretrain(images, whole_run)
    assert {path.name: path.read_bytes() for path in whole_run.glob("*.pth")} == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.HEAD", "fc"), "does not fit this config's model: missing encoder_q.fc"),
        (("MODEL.DIM", 4), "does not fit this config's model: queue of shape"),
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


def test_resume__damaged_checkpoint_is_named(images, whole_run, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "model_0000002.pth").write_bytes((whole_run / "model_0000002.pth").read_bytes()[:5000])
    (output / "last_checkpoint").write_text("model_0000002.pth")
    with pytest.raises(ValueError, match=r"model_0000002\.pth cannot be read as a checkpoint"):
        pretrain(images, output, flags=("--resume",))


def test_run__diverging_loss_is_an_error(images, tmp_path):
    with pytest.raises(FloatingPointError, match="training diverged"):
        pretrain(images, tmp_path / "run", "SOLVER.BASE_LR", 1e30)


def test_run__bfloat16_autocast_trains_float32_weights(images, tmp_path):
    pretrain(images, tmp_path / "run", "SOLVER.PRECISION", "bfloat16", "SOLVER.MAX_EPOCHS", 1)
    state = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert {tensor.dtype for name, tensor in state.items() if tensor.is_floating_point()} == {torch.float32}


def test_bn_groups__defaults_and_refusals():
    cfg = get_cfg()
    assert bn_groups(cfg) == 8
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ValueError, match=r"12 images of a batch .* do not divide into 8 batch-norm groups"):
        bn_groups(cfg)
    cfg.MODEL.BN_GROUPS = 12
    with pytest.raises(ValueError, match=r"groups of two or more"):
        bn_groups(cfg)


def test_amp_dtype__float16_needs_cuda():
    cfg = get_cfg()
    cfg.SOLVER.PRECISION = "float16"
    with pytest.raises(ValueError, match="float16 needs CUDA"):
        amp_dtype(cfg, torch.device("cpu"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATA.ROOT", "", "DATA.ROOT is ''; expected a folder of images"),
        ("DATA.ROOT", "no/such/folder", "is not a folder"),
        ("CONTRAST.TEMPERATURE", 0.0, "CONTRAST.TEMPERATURE is 0.0; expected a positive number"),
        ("SOLVER.LR_SCHEDULE", "linear", "SOLVER.LR_SCHEDULE is 'linear'; expected one of 'step', 'cosine'"),
        ("SOLVER.IMS_PER_BATCH", 64, "22 images, fewer than one batch"),
        ("SOLVER.STEPS", "(160, 120)", "expected epochs in rising order"),
    ],
)
def test_setup__bad_values_are_named(images, tmp_path, key, value, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("(", r"\(")):
        pretrain(images, tmp_path / "run", key, value)


def test_setup__unknown_config_lists_the_known(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config named 'nothing.yaml'; there are: .*moco_v2_R_50_200ep"):
        cli.main(["--config-file", "nothing.yaml"])
