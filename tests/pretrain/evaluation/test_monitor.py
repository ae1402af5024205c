"""The monitor against the same measurement from its parts, and against a run without it."""

import copy
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import TrainerBase
from PIL import Image
from torch import nn

from mocodet.common.encoders.resnet import build_resnet
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.evaluation import knn
from mocodet.pretrain.evaluation.features import state_digest
from mocodet.pretrain.evaluation.monitor import KNNMonitor
from tests.pretrain.evaluation.test_knn import accuracy_by_sorting
from tests.processes import run_in_processes


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    generator = np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 7)):
        for number in range(count):
            folder = root / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (40, 40, 3)) // (1 + number % 2) + 60 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def knn_config(root, num_workers=0, **changes):
    cfg = get_cfg()
    cfg.AUGMENTATION.CROP_SIZE, cfg.DATA.NUM_WORKERS = 32, num_workers
    cfg.KNN.TRAIN_ROOT, cfg.KNN.VAL_ROOT, cfg.KNN.K = str(root / "train"), str(root / "val"), 5
    cfg.OUTPUT_DIR = str(root / "output")
    cfg.KNN.update(changes)
    return cfg


class Method(nn.Module):
    """The parts of a contrastive method that the monitor uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder_q = build_resnet("resnet18", num_classes=4)

    @property
    def encoder_to_transfer(self):
        return self.encoder_q


class Trainer(TrainerBase):
    """Trains on noise drawn from the process's generator, so that a draw by a hook would show."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.method = Method()
        self.method.train()
        self.optimizer = torch.optim.SGD(self.method.parameters(), lr=0.01)
        self.losses = []

    def run_step(self):
        loss = self.method.encoder_q(torch.randn(4, 3, 32, 32)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


def train(*hooks):
    trainer = Trainer()
    trainer.register_hooks(hooks)
    torch.manual_seed(1)
    trainer.train(0, 5)
    return trainer


def test_monitor__run_is_bit_identical_to_one_without(splits):
    alone = train()
    state = torch.get_rng_state()
    monitored = train(KNNMonitor(knn_config(splits, num_workers=1, PERIOD=3), 2))
    assert monitored.losses == alone.losses
    assert state_digest(monitored.method) == state_digest(alone.method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in monitored.method.modules())
    assert all(parameter.grad is not None for parameter in monitored.method.parameters())


def test_monitor__omits_excluded_training_images(splits, tmp_path):
    excluded = sorted((splits / "train").rglob("*.png"))[0]
    (tmp_path / "list").write_text(str(excluded.relative_to(splits / "train")))
    cfg = knn_config(splits)
    cfg.DATA.ROOT, cfg.DATA.EXCLUDE = str(splits / "train"), str(tmp_path / "list")
    monitor = KNNMonitor(cfg, 1)
    everything = KNNMonitor(knn_config(splits), 1)
    assert set(everything.bank.images.paths) - set(monitor.bank.images.paths) == {str(excluded)}
    assert monitor.queries.images.paths == everything.queries.images.paths
    cfg.DATA.ROOT = str(splits)
    assert KNNMonitor(cfg, 1).bank.images.paths == everything.bank.images.paths, "another folder"


@pytest.mark.parametrize(("period", "expected"), [(0, [1, 3, 4]), (4, [3, 4])])
def test_monitor__after_each_period_and_at_the_end(splits, period, expected):
    shutil.rmtree(splits / "output", ignore_errors=True)
    trainer = train(KNNMonitor(knn_config(splits, PERIOD=period), 2))
    kept = sorted((splits / "output" / "neighbours").iterdir())
    assert [path.name for path in kept] == [f"iter_{iteration:07}.json" for iteration in expected]
    last = json.loads(kept[-1].read_text())
    assert last["iterations"] == 5
    assert sorted(query["path"] for query in last["queries"]) == sorted(map(str, (splits / "val").rglob("*.png")))
    assert all(len(query["neighbours"]) == 8 for query in last["queries"])
    for key in ("knn_top1", "knn_top5"):
        values = trainer.storage.history(key).values()
        assert [iteration for _, iteration in values] == expected
        assert all(0 <= value <= 100 for value, _ in values)


def measured_alone(splits, method, size):
    """Measure the same from its parts."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    encoder = copy.deepcopy(method.encoder_q)
    encoder.fc = nn.Identity()
    encoder.eval()
    view = transforms.Compose(
        [
            transforms.Resize({32: 37, 48: 55}[size]),  # 256 / 224 of it
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    sets = {split: ImageFolder(splits / split, view) for split in ("train", "val")}
    with torch.no_grad():
        features = {
            split: torch.stack([encoder(image[None])[0] for image, _ in images]) for split, images in sets.items()
        }
    labels = {split: torch.tensor(images.targets) for split, images in sets.items()}
    return accuracy_by_sorting(features["train"], labels["train"], features["val"], labels["val"], 5, 0.07)


def measure(monitor, method):
    monitor.trainer = SimpleNamespace(method=method, device=torch.device("cpu"), dtype=torch.float32)
    return monitor.measure()


@pytest.mark.parametrize(("size", "expected"), [(0, 32), (48, 48)])  # 0: that of the crops
def test_monitor__measures_the_query_encoder_without_its_head(splits, size, expected):
    method = Method()
    monitor = KNNMonitor(knn_config(splits, SIZE=size), 1)
    assert measure(monitor, method) == pytest.approx(measured_alone(splits, method, expected))


def measure_in_process(splits, chunks):
    from detectron2.utils import comm

    gather, all_gather, results = comm.gather, comm.all_gather, []
    alike = []
    for chunk in chunks:
        knn.CHUNK = chunk
        gathered, received = [], []
        comm.gather = lambda lists, gathered=gathered: gathered.append(gather(lists)) or gathered[-1]
        comm.all_gather = lambda data, received=received: received.append(all_gather(data)) or received[-1]
        method = Method()
        # Statistics differ between processes, as in training: all must use the main process's and keep their own.
        method.encoder_q.bn1.running_mean.fill_(0.5 * comm.get_rank())
        before = state_digest(method)
        found = measure(monitor := KNNMonitor(knn_config(splits, K=9), 1), method)
        voters = gathered[1:]  # the first belong to the fixed queries
        most = max((sum(len(similarities) for similarities, _ in lists) for lists in voters), default=0)
        results.append((found, state_digest(method) == before, most))
        parts = [part for each in received for sent in each if isinstance(sent, list) for part in sent]
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts), "only what is read is sent"
        assert sum(len(part) for part in parts if part.ndim == 2) == 7, "all queries are sent, but nothing of the bank"
        alike.append(monitor.neighbours)
    return results, alike


def test_monitor__two_processes_share_the_work(splits):
    """K exceeds either part of the bank; the main process merges the lists of 7 queries, or of 4 at a time."""
    monitor = KNNMonitor(knn_config(splits, K=9), 1)
    expected = measure(monitor, Method())
    (main, alike), (_, nothing) = run_in_processes(measure_in_process, splits, (2048, 8))
    assert main == [(expected, True, 2 * 7), (expected, True, 2 * 4)]
    for found in alike:
        assert len(found) == len(monitor.neighbours) == 7
        for one, other in zip(found, monitor.neighbours, strict=True):
            assert (one["path"], one["class"]) == (other["path"], other["class"])
            for mine, theirs in zip(one["neighbours"], other["neighbours"], strict=True):
                assert mine["path"] == theirs["path"]
                assert mine["similarity"] == pytest.approx(theirs["similarity"], abs=2e-4)
    assert nothing == [[], []], "only the main process merges"
