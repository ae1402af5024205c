"""Every METHOD through the command: it receives the config's values, and a run resumes where it stopped."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from fvcore.common.config import CfgNode
from PIL import Image

from mocodet.detection.weights.convert import convert_file
from mocodet.pretrain import run as cli
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.methods import METHODS
from mocodet.pretrain.methods.base import DataFacts
from tests.checkpoints import copy_checkpoint
from tests.commands import parsed, pretrain

CLASSES, IMAGES, BATCH = 3, 18, 8  # two iterations an epoch
SUPERVISED = ("AUGMENTATION.NAME", "supervised")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of classes that differ in colour."""
    root = tmp_path_factory.mktemp("data") / "train"
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        noise = generator.integers(0, 128, (40, 40, 3), dtype=np.uint8)
        noise[..., number % CLASSES] += 100
        path = root / f"class{number % CLASSES}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    return root


@pytest.fixture(autouse=True)
def errors_as_raised(monkeypatch):
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")


def train(method: str, root: Path, output: Path, *overrides: object, flags: tuple[str, ...] = ()) -> None:
    pretrain(arguments(method, root, output, *overrides, flags=flags))


def arguments(method: str, root: Path, output: Path, *overrides: object, flags: tuple[str, ...] = ()) -> list[str]:
    config = output.parent / "small.yaml"
    output.parent.mkdir(parents=True, exist_ok=True)
    size = 40 if method == "dense" else 32  # with 32 pixels the last map has a single cell
    config.write_text(
        f"""
        METHOD: {method}
        OUTPUT_DIR: {output}
        DATA: {{ROOT: {root}, NUM_WORKERS: 0}}
        AUGMENTATION: {{NAME: {"supervised" if method == "supervised" else "moco_v1"}, CROP_SIZE: {size}}}
        MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu, BN_GROUPS: 2}}
        CONTRAST: {{QUEUE_SIZE: 20, NUM_NEGATIVES: 20}}
        SOLVER: {{IMS_PER_BATCH: {BATCH}, MAX_EPOCHS: 2, PRECISION: float32, CHECKPOINT_PERIOD: 3}}
        """
    )
    return ["--config-file", str(config), *flags, *map(str, overrides)]


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module", params=METHODS)
def run(request, folder, tmp_path_factory) -> tuple[str, Path]:
    output = tmp_path_factory.mktemp(request.param) / "run"
    train(request.param, folder, output)
    return request.param, output


# All methods share the code that refuses these.
ONE_METHOD = pytest.mark.parametrize("run", ["memory_bank"], indirect=True)


def test_resume__is_bit_identical(run, folder, tmp_path):
    method, whole = run
    copy_checkpoint(whole, tmp_path / "run", "model_0000002.pth")
    torch.manual_seed(99)  # earlier random numbers of the process must not matter
    train(method, folder, tmp_path / "run", flags=("--resume",))
    found, expected = load(tmp_path / "run" / "model_final.pth"), load(whole / "model_final.pth")
    assert found["model"].keys() == expected["model"].keys()
    assert all(torch.equal(found["model"][name], tensor) for name, tensor in expected["model"].items())
    momenta = [checkpoint["optimizer"]["state"] for checkpoint in (found, expected)]
    assert momenta[0].keys() == momenta[1].keys()
    assert all(
        torch.equal(momenta[0][number]["momentum_buffer"], state["momentum_buffer"])
        for number, state in momenta[1].items()
    )


def test_checkpoint__converts_to_what_its_encoder_computes(run, tmp_path):
    method, whole = run
    conversion = convert_file(whole / "model_final.pth", tmp_path / "encoder.pkl")  # includes detectron2's stages
    state = load(whole / "model_final.pth")["model"]
    network = torchvision.models.resnet18()
    prefix = f"{METHODS[method].encoder_name}."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    network.load_state_dict({n: v for n, v in own.items() if not n.startswith("fc.")}, strict=False)
    network.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(conversion.encoder.build()(images), network.eval()(images))
    dense = [name for name in state if name.startswith("dense_head_")]
    assert conversion.encoder.left_out.get("dense heads (dense_head_q, dense_head_k)", 0) == len(dense)
    assert bool(dense) == (method == "dense")


@ONE_METHOD
def test_resume__refuses_a_checkpoint_without_a_state(run, folder, tmp_path):
    method, whole = run
    checkpoint = load(whole / "model_0000002.pth")
    for absent in ("optimizer", "sampler", "rng"):
        output = tmp_path / absent
        output.mkdir()
        torch.save({key: value for key, value in checkpoint.items() if key != absent}, output / "model_0000002.pth")
        (output / "last_checkpoint").write_text("model_0000002.pth")
        with pytest.raises(ValueError, match=f"the checkpoint has no {absent}; expected the state of a run"):
            train(method, folder, output, flags=("--resume",))


@ONE_METHOD
def test_resume__refuses_a_checkpoint_that_is_said_to_be_of_another_method(run, folder, tmp_path):
    method, whole = run
    copy_checkpoint(whole, tmp_path / "run", "model_0000002.pth")
    checkpoint = load(tmp_path / "run" / "model_0000002.pth")
    torch.save({**checkpoint, "method": {**checkpoint["method"], "name": "other"}}, tmp_path / "run/model_0000002.pth")
    with pytest.raises(
        ValueError, match=f"the checkpoint was trained with METHOD 'other', but this run uses '{method}'"
    ):
        train(method, folder, tmp_path / "run", flags=("--resume",))


@ONE_METHOD
def test_resume__refuses_other_images_of_the_same_number(run, folder, tmp_path):
    method, whole = run
    shutil.copytree(folder, tmp_path / "data")
    renamed = tmp_path / "data" / "class0" / "00.png"
    copy_checkpoint(whole, tmp_path / "moved", "model_0000002.pth")
    train(method, tmp_path / "data", tmp_path / "moved", flags=("--resume",))  # the same files, elsewhere
    renamed.rename(renamed.with_name("99.png"))
    copy_checkpoint(whole, tmp_path / "run", "model_0000002.pth")
    with pytest.raises(ValueError, match="resume with the same data"):
        train(method, tmp_path / "data", tmp_path / "run", flags=("--resume",))


def built(method: str, *overrides: object) -> torch.nn.Module:
    return METHODS[method].from_config(config(method, *overrides), DataFacts(size=9, classes=("a", "b")))


def config(method: str, *overrides: object) -> CfgNode:
    cfg = get_cfg()
    small = [
        "METHOD",
        method,
        "MODEL.ARCH",
        "resnet18",
        "MODEL.DIM",
        8,
        "MODEL.DEVICE",
        "cpu",
        "CONTRAST.QUEUE_SIZE",
        6,
    ]
    cfg.merge_from_list([*small, "CONTRAST.NUM_NEGATIVES", 5, "SOLVER.IMS_PER_BATCH", 16, *overrides])
    return cfg


@pytest.mark.parametrize("method", ["moco", "end_to_end", "memory_bank"])
def test_from_config__contrast_keys_arrive(method):
    model = built(method, "CONTRAST.TEMPERATURE", 0.3, "MODEL.HEAD", "fc", "MODEL.SMALL_STEM", True)
    assert type(model) is METHODS[method]
    assert model.temperature == 0.3
    assert tuple(model.encoder_q.fc.weight.shape) == (8, 512)
    assert tuple(model.encoder_q.conv1.weight.shape) == (64, 3, 3, 3)
    if method != "memory_bank":
        assert model.shuffle.enabled
        assert not built(method, "CONTRAST.SHUFFLE_BN", False).shuffle.enabled


@pytest.mark.parametrize("method", [name for name, made in METHODS.items() if made.__module__.startswith("mocodet.")])
def test_chance__is_what_scores_that_tell_nothing_give(method):
    """A huge temperature, or a classifier of zeros, makes all scores equal; N is 16."""
    changes = ("CONTRAST.TEMPERATURE", 1e9)
    model, cfg, data = built(method, *changes), config(method, *changes), DataFacts(size=900, classes=("a", "b"))
    if model.classifies:
        torch.nn.init.zeros_(model.encoder.fc.weight)
        torch.nn.init.zeros_(model.encoder.fc.bias)
    batch = {name: torch.randn(16, 3, 32, 32) for name in model.views}
    outputs = model({**batch, "index": torch.arange(16) % 9, "label": torch.arange(16) % 2})
    chance = type(model).chance(cfg, data)
    assert {"loss", "accuracy"} <= chance.keys() <= outputs.keys()
    # In a bank of nine images a query's own entry is often drawn, and it is not a negative.
    assert outputs["loss"].item() == pytest.approx(chance["loss"], abs=0.2 if method == "memory_bank" else 1e-5)
    assert chance["accuracy"] == pytest.approx(math.exp(-chance["loss"]))
    if method == "supervised":
        assert outputs["accuracy"].item() == chance["accuracy"], "the first class wins, and half of the images have it"


def test_from_config__keys_of_one_method_arrive():
    moco = built("moco", "CONTRAST.MOMENTUM", 0.7)
    assert (moco.momentum, moco.queue_size) == (0.7, 6)
    bank = built("memory_bank", "CONTRAST.BANK_MOMENTUM", 0.25)
    assert (bank.bank_momentum, bank.num_negatives, tuple(bank.bank.shape)) == (0.25, 5, (9, 8))
    assert tuple(built("supervised").encoder.fc.weight.shape) == (2, 512)


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("memory_bank", ("CONTRAST.MOMENTUM", 0.5), "CONTRAST.MOMENTUM 0.5 (only used by METHOD moco, dense)"),
        ("supervised", (), "MODEL.BN_GROUPS 2 (only used by METHOD moco, dense, end_to_end, memory_bank)"),
        (
            "moco",
            ("SOLVER.LR_SCHEDULE", "step", "DATA.CACHE_SIDE", 9),
            "DATA.CACHE_SIDE 9 (DATA.CACHE is 'none'); SOLVER.STEPS 120, 160 (SOLVER.MAX_EPOCHS is 1)",
        ),
        (
            "moco",
            ("AUGMENTATION.NAME", "moco_v1", "AUGMENTATION.BLUR_SIGMA", 0.4),
            "AUGMENTATION.BLUR_SIGMA 0.4 (AUGMENTATION.NAME is 'moco_v1', which does not blur)",
        ),
    ],
)
def test_setup__tells_what_has_no_effect(folder, tmp_path, method, overrides, message):
    given = arguments(method, folder, tmp_path / "run", *overrides, "SOLVER.MAX_EPOCHS", 1)
    cfg = cli.read_config(parsed("pretrain", given))
    cli.start(cfg, resume=False)
    cli.announce(cfg)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "settings of this config that have no effect: " in log
    assert message in log


def test_evaluators__every_measurement_is_in_the_log_and_before_the_checkpoint(folder, tmp_path, monkeypatch):
    measured = (
        "KNN.TRAIN_ROOT",
        folder,
        "KNN.VAL_ROOT",
        folder,
        "KNN.K",
        3,
        "DATA.VAL_ROOT",
        folder,
        "LOG_PERIOD",
        100,
    )
    train("supervised", folder, tmp_path / "run", *measured, "SOLVER.MAX_EPOCHS", 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    for key in ("knn_top1", "top1"):
        assert [line["iteration"] for line in lines if key in line] == [1, 3]

    # Killed during its last evaluation: the last checkpoint is older, so --resume measures again.
    monkeypatch.setattr(
        "mocodet.pretrain.evaluation.classification.ClassificationEvaluator.evaluate",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        train("supervised", folder, tmp_path / "killed", *measured, "SOLVER.MAX_EPOCHS", 1)
    assert not (tmp_path / "killed" / "model_final.pth").exists()
