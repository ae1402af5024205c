"""Top-1 and top-5 against a loop over single images; the evaluator does not affect training."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from PIL import Image
from torch import nn

from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.evaluation.classification import (
    ClassificationEvaluator,
    classification_accuracy,
    open_validation,
)
from mocodet.pretrain.evaluation.features import FeatureSettings
from tests.commands import classify
from tests.processes import run_in_processes

CLASSES, SIZE, COUNT = 8, 28, 13  # the shorter side becomes 32
MEAN, STD = np.array([123.675, 116.280, 103.530]), np.array([58.395, 57.120, 57.375])
NAMES = [f"class{number}" for number in range(CLASSES)]


def pictures() -> list[Image.Image]:
    """Pictures of several sizes, wide and high."""
    generator = np.random.default_rng(4)
    sizes = [(40, 64), (64, 40), (28, 90), (32, 32), (20, 20)]  # height, width
    shapes = [sizes[number % len(sizes)] for number in range(COUNT)]
    return [Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def labels() -> torch.Tensor:
    return torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(6))


def small_network(statistics: float = 0.3) -> nn.Module:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(54, CLASSES),
    )  # fmt: skip
    network[1].running_mean.fill_(statistics)
    return network


@torch.no_grad()
def reference(network: nn.Module) -> dict[str, float]:
    """Crop, classify and rank one image at a time, without torchvision."""
    network.eval()
    ranks = []
    for image, label in zip(pictures(), labels().tolist(), strict=True):
        short = min(image.size)
        image = image.resize([int(32 * side / short) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (round((side - SIZE) / 2) for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float64)
        normal = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None].float()
        logits = network(normal)[0].tolist()
        ranks.append(sorted(range(CLASSES), key=lambda place: -logits[place]).index(label))
    return {f"top{k}": 100 * sum(rank < k for rank in ranks) / COUNT for k in (1, 5)}


def accuracy(network: nn.Module, batch_size: int = 4, num_workers: int = 0, **other: object) -> dict[str, float]:
    data = SimpleNamespace(**{"images": pictures(), "labels": labels(), **other})
    return classification_accuracy(network, data, FeatureSettings(SIZE, batch_size, num_workers=num_workers))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(4, 0), (13, 0), (1, 1)])
def test_accuracy__equals_a_loop_over_single_images(batch_size, num_workers):
    expected = reference(small_network())
    assert 0 < expected["top1"] < expected["top5"] < 100, "a reference at an end of the scale would prove little"
    assert accuracy(small_network(), batch_size, num_workers) == pytest.approx(expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_accuracy__leaves_mode_statistics_gradients_and_generators(num_workers):
    network = small_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    accuracy(network, num_workers=num_workers)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in network.parameters())


def accuracy_in_process() -> dict[str, float]:
    # Each process has normalised different images.
    return accuracy(small_network(0.3 + 5 * comm.get_rank()))


def test_accuracy__two_processes_share_the_images_and_the_main_ones_statistics():
    expected = reference(small_network(0.3))
    assert reference(small_network(5.3)) != expected
    assert run_in_processes(accuracy_in_process) == [pytest.approx(expected)] * 2


def test_accuracy__fewer_than_five_classes():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
    assert accuracy(network, labels=labels() % 3)["top5"] == 100


def test_accuracy__logits_that_are_not_finite():
    network = small_network().train()
    network[5].bias.data[2] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite: training diverged"):
        accuracy(network)
    assert network.training


def test_accuracy__without_tf32():
    network, seen = small_network(), []
    network[0].register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    accuracy(network)
    assert seen == [False] * 4
    assert torch.backends.cudnn.allow_tf32, "as before"


class Broken:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Image.Image:
        raise ValueError("x.png cannot be read as an image; replace or remove it")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_accuracy__damaged_image_is_named(num_workers):
    with pytest.raises(ValueError, match=r"^x\.png cannot be read as an image; replace or remove it$"):
        accuracy(small_network(), 2, num_workers, images=Broken(), labels=labels()[:3])


class Trainer(TrainerBase):
    """Changes the network at each step, so that each evaluation has a different result."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.logged: dict[int, dict[str, float]] = {}

    @torch.no_grad()
    def run_step(self) -> None:
        self.network[5].weight.add_(torch.randn(CLASSES, 54, generator=torch.Generator().manual_seed(self.iter)))

    def after_step(self) -> None:
        super().after_step()
        latest = get_event_storage().latest()
        self.logged[self.iter + 1] = {name: value for name, (value, at) in latest.items() if at == self.iter}


def test_evaluator__after_each_epoch_and_at_the_end(tmp_path):
    trainer = Trainer(small_network())
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.DATA.VAL_ANNOTATIONS, cfg.DATA.NUM_WORKERS = str(tmp_path), "val.json", 0
    cfg.AUGMENTATION.CROP_SIZE, cfg.SOLVER.IMS_PER_BATCH = SIZE, 4
    data = SimpleNamespace(images=pictures(), labels=labels())
    evaluator = ClassificationEvaluator(cfg, trainer.network, data, period=3)
    trainer.register_hooks([evaluator])
    trainer.train(0, 7)
    logged = {done: values for done, values in trainer.logged.items() if "top1" in values}
    assert list(logged) == [3, 6, 7]

    expected = Trainer(small_network())
    for done in range(1, 8):
        expected.iter = done - 1
        expected.run_step()
        if done in logged:
            assert logged[done] == pytest.approx(reference(expected.network)), done
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == {"val.json": {"classification": {**logged[7], "images": COUNT, "iterations": 7}}}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Class folders of training and validation images, with two and one of each class."""
    root = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(0)
    for split, each in (("train", 2), ("val", 1)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                noise = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(noise).resize((40, 36)).save(root / split / name / f"{number}.png")
    return {split: root / split for split in ("train", "val")}


def arguments(folders: dict[str, Path], output: Path, *more: object) -> list[str]:
    config = output.parent / "small.yaml"
    config.write_text(
        f"""
        METHOD: supervised
        OUTPUT_DIR: {output}
        LOG_PERIOD: 1
        DATA: {{ROOT: {folders["train"]}, VAL_ROOT: {folders["val"]}, NUM_WORKERS: 0}}
        AUGMENTATION: {{NAME: supervised, CROP_SIZE: 32, MIN_SCALE: 0.08}}
        MODEL: {{ARCH: resnet18, DEVICE: cpu}}
        SOLVER: {{IMS_PER_BATCH: 8, MAX_EPOCHS: 2, PRECISION: float32, BASE_LR: 0.05}}
        """
    )
    return ["--config-file", str(config), *map(str, more)]


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "run"
    classify(arguments(folders, output))
    return output


@pytest.fixture
def raises(monkeypatch):
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")


def test_run__the_evaluator_changes_nothing_that_is_saved(folders, run, tmp_path):
    classify(arguments(folders, tmp_path / "run", "DATA.VAL_ROOT", ""))
    found, expected = (torch.load(f / "model_final.pth", weights_only=True) for f in (tmp_path / "run", run))
    assert found["model"].keys() == expected["model"].keys()
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value), name
    assert torch.equal(found["rng"][0]["cpu"], expected["rng"][0]["cpu"])
    assert not (tmp_path / "run" / "results.json").exists()


def test_run__logs_each_epoch(run):
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "top1" in line] == [1, 3]
    (results,) = json.loads((run / "results.json").read_text()).values()
    last = lines[-1]
    assert results == {
        "classification": {"top1": last["top1"], "top5": last["top5"], "images": CLASSES, "iterations": 4}
    }


def test_eval_only__finds_what_the_run_found(folders, run, tmp_path):
    def results(output: Path) -> dict:
        return json.loads((output / "results.json").read_text())

    weights = ("MODEL.WEIGHTS", run / "model_final.pth", "DATA.ROOT", "not/needed")
    classify(arguments(folders, tmp_path / "eval", "--eval-only", *weights))
    assert results(tmp_path / "eval") == results(run)
    assert not list((tmp_path / "eval").glob("*.pth"))
    expected = results(run)
    (run / "results.json").unlink()
    classify(arguments(folders, run, "--eval-only", "--resume"))
    assert results(run) == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["METHOD", "moco"], r"small\.yaml has METHOD 'moco'; expected 'supervised'"),
        (["--eval-only"], r"MODEL.WEIGHTS is ''; set it to a classifier checkpoint or add --resume"),
        (["--eval-only", "--resume"], r"\S* contains no checkpoint; specify the OUTPUT_DIR of a run"),
        (["--eval-only", "DATA.VAL_ROOT", ""], r"DATA.VAL_ROOT is ''; --eval-only requires a validation split"),
    ],
)
def test_command__refuses(folders, tmp_path, raises, more, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        classify(arguments(folders, tmp_path / "run", *more))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_open_validation__files_that_are_not_used_are_told(tmp_path, caplog):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "film.mp4").write_text("")
    cfg = get_cfg()
    cfg.DATA.VAL_ROOT = str(tmp_path)
    open_validation(cfg)
    assert f"1 files in {tmp_path} are not images (by extension); ignored" in caplog.text


def test_open_validation__classes_must_be_those_of_training(folders):
    cfg = get_cfg()
    cfg.DATA.VAL_ROOT = str(folders["val"])
    assert list(open_validation(cfg, NAMES).classes) == NAMES
    with pytest.raises(
        ValueError, match=r"different classes \(7 for training, 8 for validation\): class3 \(validation only\)"
    ):
        open_validation(cfg, [name for name in NAMES if name != "class3"])
