"""Weighted nearest neighbours against sorting in float64, and the monitor against a run without it."""

import copy
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
from mocodet.pretrain.evaluation.knn import KNNMonitor, knn_accuracy, nearest
from tests.processes import run_in_processes


def sorted_similarities(bank, queries):
    """Return the cosines of each query with all entries in falling order, and the entries' places, in float64."""
    units = [rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1)[:, None] for rows in (queries, bank)]
    similarities = units[0] @ units[1].T
    order = np.argsort(-similarities, axis=1)
    return np.take_along_axis(similarities, order, axis=1), order


def accuracy_by_sorting(bank, bank_labels, queries, query_labels, k, temperature):
    """Section 3.4 of Wu et al., one query at a time, in Python's floats."""
    top1 = top5 = 0
    for similarities, places, truth in zip(*sorted_similarities(bank, queries), query_labels.tolist(), strict=True):
        votes = {}
        for similarity, place in zip(similarities[:k], places[:k], strict=True):
            label = int(bank_labels[place])
            votes[label] = votes.get(label, 0.0) + np.exp(similarity / temperature)
        ranking = sorted(votes, key=lambda label: (-votes[label], label))
        top1 += truth == ranking[0]
        top5 += truth in ranking[:5]
    return {"top1": 100 * top1 / len(queries), "top5": 100 * top5 / len(queries)}


@pytest.fixture
def clusters():
    """Eight classes that overlap, so that neighbours of several classes vote."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 6, generator=generator)
    labels = torch.arange(120) % 8
    points = centres[labels] + 1.5 * torch.randn(120, 6, generator=generator)
    return points[:80], labels[:80], points[80:], labels[80:]


@pytest.mark.parametrize("chunk", [1, 7, 33, 2048])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 5.0])
def test_knn_accuracy__equals_sorting(clusters, monkeypatch, chunk, temperature):
    monkeypatch.setattr(knn, "CHUNK", chunk)
    ks = [1, 7, 40, 80]
    expected = [accuracy_by_sorting(*clusters, k, temperature) for k in ks]
    assert all(10 < row["top1"] < 90 for row in expected), "a test in which all or nothing is right shows nothing"
    assert len({tuple(row.values()) for row in expected}) > 2
    assert knn_accuracy(*clusters, ks, temperature) == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize("chunk", [1, 7, 64, 300, 4096])
@pytest.mark.parametrize("storage", [torch.float32, torch.float16])
def test_nearest__equals_sorting(monkeypatch, chunk, storage):
    monkeypatch.setattr(knn, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    bank, queries = (3 * torch.randn(rows, 5, generator=generator).to(storage) for rows in (300, 40))
    similarities, places = sorted_similarities(bank, queries)
    assert (np.diff(-similarities[:, :51]) > 1e-6).all(), "no two are equal in float32"
    found, labels = nearest(bank, torch.arange(300), queries, 50)
    assert labels.tolist() == places[:, :50].tolist()
    np.testing.assert_allclose(found, similarities[:, :50], atol=1e-6)
    every, _ = nearest(bank, torch.arange(300), queries, 1000)
    assert every.shape == (40, 300), "of fewer entries all are the nearest"


def test_nearest__bounded_memory(monkeypatch):
    monkeypatch.setattr(knn, "CHUNK", 16)
    sizes = []
    original = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda one, other: sizes.append((len(one), other.shape[1])) or original(one, other)
    )
    knn_accuracy(torch.randn(50, 4), torch.arange(50), torch.randn(30, 4), torch.arange(30), [5], 0.07)
    assert sizes == [(16, 16)] * 3 + [(16, 2)] + [(14, 16)] * 3 + [(14, 2)]


def classified(similarities, voters, label, temperature=0.07):
    """Classify one query of this label, given its similarities to a bank in the plane and the classes of the bank."""
    cosines = torch.tensor(similarities)
    bank = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    labels = torch.tensor(voters), torch.tensor([label])
    return knn_accuracy(bank, labels[0], torch.tensor([[2.0, 0.0]]), labels[1], [len(voters)], temperature)[0]


def test_knn_accuracy__class_without_a_vote_is_never_right():
    assert classified([0.9, 0.8], [3, 3], 0) == {"top1": 0.0, "top5": 0.0}
    assert classified([0.9, 0.8], [3, 3], 7) == {"top1": 0.0, "top5": 0.0}
    assert classified([0.9, 0.8], [3, 3], 3) == {"top1": 100.0, "top5": 100.0}


def test_knn_accuracy__equal_sums_and_a_small_temperature():
    assert classified([0.5, 0.5], [2, 1], 1) == {"top1": 100.0, "top5": 100.0}
    assert classified([0.5, 0.5], [2, 1], 2) == {"top1": 0.0, "top5": 100.0}
    # exp(1 / 1e-4) has no float
    assert classified([1.0, 0.999], [1, 0], 1, temperature=1e-4)["top1"] == 100
    assert classified([1.0, 0.999], [1, 0], 0, temperature=1e-4) == {"top1": 0.0, "top5": 100.0}


# The monitor


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
    cfg.KNN.update(changes)
    return cfg


class Method(nn.Module):
    """As much of a contrast mechanism as the monitor looks at."""

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
    monitored = train(KNNMonitor(knn_config(splits, num_workers=1), 2))
    assert monitored.losses == alone.losses
    assert state_digest(monitored.method) == state_digest(alone.method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in monitored.method.modules())
    assert all(parameter.grad is not None for parameter in monitored.method.parameters())


@pytest.mark.parametrize(("period", "expected"), [(0, [1, 3, 4]), (4, [3, 4]), (9, [4])])
def test_monitor__after_each_period_and_at_the_end(splits, period, expected):
    trainer = train(KNNMonitor(knn_config(splits, PERIOD=period), 2))
    for key in ("knn_top1", "knn_top5"):
        values = trainer.storage.history(key).values()
        assert [iteration for _, iteration in values] == expected
        assert all(0 <= value <= 100 for value, _ in values)


def measured_alone(splits, method):
    """The same measurement from its parts."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    encoder = copy.deepcopy(method.encoder_q)
    encoder.fc = nn.Identity()
    encoder.eval()
    view = transforms.Compose(
        [
            transforms.Resize(37),  # round(32 * 256 / 224)
            transforms.CenterCrop(32),
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


def test_monitor__measures_the_query_encoder_without_its_head(splits):
    method = Method()
    monitor = KNNMonitor(knn_config(splits), 1)
    assert measure(monitor, method) == pytest.approx(measured_alone(splits, method))


def measure_in_process(splits, chunks):
    from detectron2.utils import comm

    gather, all_gather, results = comm.gather, comm.all_gather, []
    for chunk in chunks:
        knn.CHUNK = chunk
        gathered, received = [], []
        comm.gather = lambda lists, gathered=gathered: gathered.append(gather(lists)) or gathered[-1]
        comm.all_gather = lambda data, received=received: received.append(all_gather(data)) or received[-1]
        method = Method()
        # Statistics differ between processes, as in training: all must look with the main process's and keep their own.
        method.encoder_q.bn1.running_mean.fill_(0.5 * comm.get_rank())
        before = state_digest(method)
        found = measure(KNNMonitor(knn_config(splits, K=9), 1), method)
        most = max((sum(len(similarities) for similarities, _ in lists) for lists in gathered), default=0)
        results.append((found, state_digest(method) == before, most))
        parts = [part for each in received for sent in each if isinstance(sent, list) for part in sent]
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts), "nothing is sent that is not read"
        assert sum(len(part) for part in parts if part.ndim == 2) == 7, "all queries are sent, and nothing of the bank"
    return results


def test_monitor__two_processes_share_the_work(splits):
    """K exceeds what either has of the bank; the main process merges the lists of 7 queries, or of 4 at a time."""
    expected = measure(KNNMonitor(knn_config(splits, K=9), 1), Method())
    main, other = run_in_processes(measure_in_process, splits, (2048, 8))
    assert main == [(expected, True, 2 * 7), (expected, True, 2 * 4)]
    assert other == [(expected, True, 0)] * 2


def accuracies_in_process(cases):
    from detectron2.utils import comm

    rank, world = comm.get_rank(), comm.get_world_size()
    found = []
    for case in cases:
        mine = [rows[rank::world] for rows in case]
        for number in (0, 2):  # features of no image have no length, as extract_features returns them
            mine[number] = mine[number] if len(mine[number]) else torch.empty(0, 0)
        found += knn_accuracy(*mine, [1, 2], 0.07)
    return found


def test_knn_accuracy__three_processes_of_which_one_has_nothing(clusters):
    bank, bank_labels, queries, labels = clusters
    cases = [(bank, bank_labels, queries[:2], labels[:2]), (bank[:2], bank_labels[:2], queries, labels)]
    expected = [pytest.approx(accuracy_by_sorting(*case, k, 0.07)) for case in cases for k in (1, 2)]
    assert run_in_processes(accuracies_in_process, cases, world_size=3) == [expected] * 3


def test_monitor__checks_its_folders_when_it_is_built(splits, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"KNN\.VAL_ROOT \S*nowhere: '\S*nowhere' is not a folder"):
        KNNMonitor(knn_config(splits, VAL_ROOT=str(tmp_path / "nowhere")), 1)
    with pytest.raises(ValueError, match=r"KNN\.K is 14, but KNN\.TRAIN_ROOT .* has 13 images"):
        KNNMonitor(knn_config(splits, K=14), 1)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "1.png")
    with pytest.raises(ValueError, match=r"KNN\.TRAIN_ROOT .*class0 \(training only\)"):
        KNNMonitor(knn_config(splits, VAL_ROOT=str(tmp_path)), 1)
