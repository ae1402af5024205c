"""The tools through their entry points: results, and errors in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mocodet.pretrain.evaluation.features import random_backbone, state_digest
from tests.commands import knn, linear


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Two classes, dark and bright, that differ in colour alone."""
    root = tmp_path_factory.mktemp("splits")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for number in range(count):
            folder = root / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 100, (40, 44, 3)) + 150 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def data(splits):
    return ["--train", str(splits / "train"), "--val", str(splits / "val"), "--size", "32", "--device", "cpu"]


@pytest.fixture
def checkpoint(tmp_path):
    backbone = random_backbone("resnet18", 5)
    state = {f"encoder_q.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save({"model": state, "iteration": 3}, tmp_path / "model.pth")
    return tmp_path / "model.pth", state_digest(backbone)


def test_knn__table_and_json(data, checkpoint, tmp_path, capsys):
    path, digest = checkpoint
    output = tmp_path / "knn.json"
    knn([str(path), *data, "--k", "1", "5", "--output", str(output)])
    results = json.loads(output.read_text())
    assert (results["checkpoint"], results["arch"], results["backbone_sha256"]) == (str(path), "resnet18", digest)
    assert results["results"] == [{"k": k, "top1": 100.0, "top5": 100.0} for k in (1, 5)]
    assert results["progress"] == "iteration 3", "so that the results of several checkpoints make a curve"
    assert len(results["neighbours"]) == 6
    assert all(query["neighbours"][0]["class"] == query["class"] for query in results["neighbours"])
    assert capsys.readouterr().out.count("100.00") == 4


def test_knn__random_weights_and_half_precision_storage(data, tmp_path):
    output = tmp_path / "knn.json"
    knn(["--random", "resnet18", "--small-stem", "--half", *data, "--k", "3", "--output", str(output)])
    results = json.loads(output.read_text())
    assert (results["checkpoint"], results["stored"]) == ("random", "float16")
    assert results["backbone_sha256"] == state_digest(random_backbone("resnet18", 0, small_stem=True))


@pytest.mark.parametrize("mode", [["--cached"], []])
def test_linear__table_and_json(data, checkpoint, tmp_path, capsys, mode):
    path, digest = checkpoint
    output = tmp_path / "linear.json"
    sweep = ["--lr", "0.1", "1e38", "--epochs", "5", "--batch-size", "4"]
    linear([str(path), *data, *mode, *sweep, "--output", str(output)])
    results = json.loads(output.read_text())
    assert results["mode"] == ("cached" if mode else "augmented")
    assert results["protocol"]["steps"] == [3, 4]
    best, diverged = results["results"]
    assert (best["lr"], best["top1"], best["best"]) == (0.1, 100.0, True)
    assert diverged["top1"] is None
    shown = capsys.readouterr().out
    assert "diverged" in shown
    assert "best of 2 classifiers" in shown
    assert f"backbone unchanged: SHA-256 {digest[:16]}" in shown


def test_linear__cache_is_shared_with_knn(data, checkpoint, tmp_path):
    given = [str(checkpoint[0]), *data, "--cache", str(tmp_path / "cache")]
    knn([*given, "--k", "1"])
    made = sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir())
    assert len(made) == 2
    linear([*given, "--cached", "--lr", "0.1", "--epochs", "1"])
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()) == made


@pytest.mark.parametrize(
    ("main", "given", "message"),
    [
        (knn, ["nowhere.pth"], "there is no checkpoint nowhere.pth"),
        (knn, ["--random", "resnet18", "--k", "13"], "--k 13 exceeds the number of training images, 12"),
        (knn, ["--random", "vgg"], "unknown encoder 'vgg'"),
        (knn, ["--random", "resnet18", "--precision", "float16"], "float16 requires CUDA"),
    ],
)
def test_errors__one_line(data, main, given, message, monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main([*given, *data])
    assert str(stopped.value).startswith("error: ")
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("main", "given", "message"),
    [
        (knn, ["model.pth", "--small-stem"], "--small-stem can only be used with --random"),
        (knn, ["--random", "resnet18", "--k", "5", "0"], "argument --k: invalid positive int value: '0'"),
        (knn, ["--random", "resnet18", "--temperature", "0"], "--temperature: invalid positive float value: '0'"),
        (knn, ["--random", "resnet18", "--size", "0"], "argument --size: invalid positive int value: '0'"),
        (knn, ["--random", "resnet18", "--batch-size", "0"], "--batch-size: invalid positive int value: '0'"),
        (linear, ["--random", "resnet18", "--lr", "0"], "argument --lr: invalid positive float value: '0'"),
        (linear, ["--random", "resnet18", "--lr", "nan"], "argument --lr: invalid positive float value: 'nan'"),
        (linear, ["--random", "resnet18", "--wd", "0", "-1"], "argument --wd: invalid non-negative float value: '-1'"),
        (linear, ["--random", "resnet18", "--epochs", "0"], "argument --epochs: invalid positive int value: '0'"),
        (linear, ["--random", "resnet18", "--steps", "5", "3"], "--steps 5 3: expected epochs in increasing order"),
        (linear, ["--random", "resnet18", "--epochs", "5", "--steps", "3", "5"], "--steps 5 has no effect"),
        (linear, ["--random", "resnet18", "--resume"], "--resume requires --state, the file to resume"),
    ],
)
def test_errors__bad_flags_are_refused_before_anything_is_read(main, given, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--train", "nowhere", "--val", "nowhere"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_errors__other_classes(data, splits, tmp_path):
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "1.png")
    with pytest.raises(SystemExit, match=r"class0 \(training only\)"):
        knn(["--random", "resnet18", "--train", str(splits / "train"), "--val", str(tmp_path)])
