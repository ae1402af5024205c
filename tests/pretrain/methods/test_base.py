"""A method is one file: a toy method trains, resumes, converts and is evaluated without any other change."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mocodet.common.encoders.reading import read_encoder
from mocodet.common.encoders.resnet import build_resnet
from mocodet.pretrain.config import all_keys, check_config, get_cfg
from mocodet.pretrain.evaluation.features import state_digest
from mocodet.pretrain.keys import Key, at_least
from mocodet.pretrain.methods import METHODS, Method
from tests.checkpoints import assert_equal_states, copy_checkpoint
from tests.commands import convert, knn, pretrain
from tests.pretrain.methods import toy_method

RECIPE = """
METHOD: toy_agreement
AUGMENTATION: {NAME: moco_v1, CROP_SIZE: 32}
MODEL: {ARCH: resnet18, DEVICE: cpu}
TOY: {INERTIA: 0.5}
KNN: {K: 3}
DATA: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 8, MAX_EPOCHS: 2, PRECISION: float32, CHECKPOINT_PERIOD: 3}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of 9 images, which are two iterations an epoch."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for number in range(18):
        noise = generator.integers(0, 128, (40, 40, 3), dtype=np.uint8)
        noise[..., number % 2] += 100
        path = root / f"class{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(path)
    return root


def run_recipe(folder: Path, output: Path, *flags: str) -> None:
    config = output.with_name("recipe.yaml")
    output.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(RECIPE)
    roots = ("DATA.ROOT", folder, "KNN.TRAIN_ROOT", folder, "KNN.VAL_ROOT", folder)
    pretrain(["--config-file", str(config), *flags, *map(str, roots), "OUTPUT_DIR", str(output)])


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("toy") / "run"
    run_recipe(folder, output)
    return output


def test_toy_method__trains_and_logs_what_it_returns(run):
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert any({"loss", "agreement"} <= line.keys() for line in lines)
    assert [line["iteration"] for line in lines if "knn_top1" in line] == [1, 3]
    saved = torch.load(run / "model_final.pth", weights_only=True)
    assert re.search(r"  loss -?[\d.]+  lr [\d.]+ .*  agreement -?[\d.]+", (run / "log.txt").read_text())
    assert any(name.startswith("online.") for name in saved["model"])
    assert saved["method"] == {"name": "toy_agreement", "encoder": "online"}
    assert saved["signs"] == {"told": []}


def test_toy_method__resumes_bit_identically(run, folder, tmp_path):
    copy_checkpoint(run, tmp_path / "run", "model_0000002.pth")
    torch.manual_seed(99)
    run_recipe(folder, tmp_path / "run", "--resume")
    found, expected = (torch.load(path / "model_final.pth", weights_only=True) for path in (tmp_path / "run", run))
    assert_equal_states(found, expected)


def test_toy_method__its_encoder_is_taken_and_the_other_named(run, tmp_path, capsys):
    encoder = read_encoder(run / "model_final.pth")
    saved = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert torch.equal(encoder.tensors["conv1.weight"], saved["online.conv1.weight"])
    assert not torch.equal(encoder.tensors["conv1.weight"], saved["target.conv1.weight"])
    convert([str(run / "model_final.pth"), str(tmp_path / "toy.pkl")])
    told = capsys.readouterr().out
    assert "resnet18, encoder of METHOD toy_agreement, mocodet format" in told
    assert "passed over: 'target.'" in told
    assert "Verified" in told
    assert "warning" not in told


def test_toy_method__is_evaluated(run, folder, tmp_path):
    results = tmp_path / "knn.json"
    data = ["--train", str(folder), "--val", str(folder), "--size", "32"]
    knn([str(run / "model_final.pth"), *data, "--k", "1", "--output", str(results)])
    backbone = build_resnet("resnet18")
    backbone.fc = nn.Identity()
    saved = torch.load(run / "model_final.pth", weights_only=True)["model"]
    online = {name.removeprefix("online."): tensor for name, tensor in saved.items() if name.startswith("online.")}
    counted = {name: tensor for name, tensor in online.items() if not re.match(r"fc\.|.*num_batches_tracked", name)}
    assert not backbone.load_state_dict(counted, strict=False).unexpected_keys
    assert json.loads(results.read_text())["backbone_sha256"] == state_digest(backbone)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TOY.DIM", 1, "TOY.DIM is 1; expected at least 2"),
        ("TOY.INERTIA", 2.0, r"TOY.INERTIA is 2.0; expected a number within \[0, 1\]"),
        ("TOY.DIM", 9, "TOY.DIM 9 exceeds SOLVER.IMS_PER_BATCH 8"),
    ],
)
def test_toy_method__its_keys_are_checked(key, value, message):
    cfg = get_cfg()
    cfg.merge_from_list(["METHOD", "toy_agreement", "DATA.ROOT", "x", "SOLVER.IMS_PER_BATCH", 8, key, value])
    with pytest.raises(ValueError, match=message):
        check_config(cfg)


def test_method__a_name_is_taken_once():
    with pytest.raises(
        ValueError, match=r"METHOD 'moco' is already used by mocodet\.pretrain\.methods\.moco\.MomentumContrast; choose"
    ):
        type("Other", (Method,), {}, name="moco")
    assert METHODS["toy_agreement"] is toy_method.Agreement


def test_method__a_base_of_several_needs_no_name():
    before = dict(METHODS)
    type("Common", (Method,), {})
    assert before == METHODS


def test_all_keys__a_key_means_one_thing():
    other = type("Other", (toy_method.Agreement,), {"keys": {"TOY.DIM": Key(4, "Else.", at_least(1))}}, name="other")
    try:
        with pytest.raises(ValueError, match=r"METHOD other declares TOY\.DIM, but this key already exists; rename"):
            all_keys()
    finally:
        del METHODS[other.name]


def test_check_copies__one_that_the_method_does_not_name(monkeypatch):
    """A warm start would silently leave it random."""
    method = toy_method.Agreement(build_resnet("resnet18", num_classes=8), 0.5, 0)
    method.check_copies()
    monkeypatch.setattr(toy_method.Agreement, "encoder_copies", ())
    with pytest.raises(
        ValueError, match=r"would initialise .* but not its copy target: add 'target' to encoder_copies"
    ):
        method.check_copies()
    method.target.fc.weight.data.mul_(2)
    method.check_copies()
