"""Weighted nearest neighbours against a loop over queries, and the monitor against a run without it."""

import copy
import itertools
import math

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
from mocodet.pretrain.evaluation.knn import KNNMonitor, nearest_keys, pack, unpack, vote
from tests.processes import run_in_processes


def accuracy_by_loops(bank, bank_labels, queries, query_labels, k, temperature):
    """Section 3.4 of Wu et al., one query at a time, in Python's floats."""

    def cosine(one, other):
        dot = sum(a * b for a, b in zip(one, other, strict=True))
        return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))

    top1 = top5 = 0
    for query, truth in zip(queries.tolist(), query_labels.tolist(), strict=True):
        similarities = [cosine(query, entry) for entry in bank.tolist()]
        nearest = sorted(range(len(similarities)), key=lambda place: (-similarities[place], place))[:k]
        votes = {}
        for place in nearest:
            label = int(bank_labels[place])
            votes[label] = votes.get(label, 0.0) + math.exp(similarities[place] / temperature)
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


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (40, 0.07), (40, 5.0), (80, 0.5)])
def test_nearest_keys_and_vote__equal_loops(clusters, k, temperature):
    expected = accuracy_by_loops(*clusters, k, temperature)
    assert 10 < expected["top1"] < 90, "a test in which all or nothing is right shows nothing"
    bank, bank_labels, queries, query_labels = clusters
    found = vote(nearest_keys(bank, queries, k), bank_labels, query_labels, temperature)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("query_chunk", "bank_chunk"), [(1, 1), (7, 3), (40, 11), (3, 80), (1000, 1000)])
def test_nearest_keys__chunks_and_ties(query_chunk, bank_chunk):
    # Corners of a cube: norms and similarities are exact, and most similarities occur many times.
    corners = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=4)))
    generator = torch.Generator().manual_seed(0)
    bank = corners[torch.randint(16, (60,), generator=generator)]
    keys = nearest_keys(bank, corners, 12, query_chunk=query_chunk, bank_chunk=bank_chunk)
    similarities, places = unpack(keys)
    for row, query in enumerate(corners):
        exact = (bank @ query).tolist()
        expected = sorted(range(60), key=lambda place: (-exact[place], place))[:12]
        assert places[row].tolist() == expected
        assert similarities[row].tolist() == [exact[place] for place in expected]


def exact_similarities(bank, queries):
    """Cosines in units of 2^-52, by whole numbers alone once the components are rounded."""
    units = [
        np.rint(rows.double().numpy() / np.sqrt((rows.double().numpy() ** 2).sum(1, keepdims=True)) * 2**26)
        for rows in (bank, queries)
    ]
    bank, queries = (rows.astype(np.int64) for rows in units)
    return (queries[:, None, :] * bank[None]).sum(-1)


CHUNKS = [(1, 1), (1, 300), (7, 64), (40, 33), (512, 4096)]


def test_nearest_keys__not_a_bit_depends_on_the_chunks():
    """Random features, each four times in the bank; float32 would round equal products in as many ways as there are."""
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(75, 301, generator=generator).repeat(4, 1)[torch.randperm(300, generator=generator)]
    queries = torch.randn(40, 301, generator=generator)
    exact = exact_similarities(bank, queries)
    expected = [sorted(range(300), key=lambda place, row=row: (-row[place], place))[:50] for row in exact]
    for query_chunk, bank_chunk in CHUNKS:
        keys = nearest_keys(bank, queries, 50, query_chunk=query_chunk, bank_chunk=bank_chunk)
        similarities, places = unpack(keys)
        assert places.tolist() == expected
        assert torch.equal(similarities, torch.from_numpy(np.take_along_axis(exact, places.numpy(), 1) / 2**52).float())


def test_nearest_keys__bank_is_prepared_once(monkeypatch):
    prepared = []
    original = knn._on_grid
    monkeypatch.setattr(knn, "_on_grid", lambda rows, *rest: prepared.append(rows) or original(rows, *rest))
    bank = torch.randn(50, 4)
    nearest_keys(bank, torch.randn(30, 4), 5, query_chunk=8, bank_chunk=16)
    own = bank.untyped_storage().data_ptr()
    assert sum(len(rows) for rows in prepared if rows.untyped_storage().data_ptr() == own) == 50


def test_nearest_keys__bounded_memory(monkeypatch):
    sizes = []
    original = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda one, other: sizes.append((len(one), other.shape[1])) or original(one, other)
    )
    nearest_keys(torch.randn(50, 4), torch.randn(30, 4), 5, query_chunk=8, bank_chunk=16)
    assert max(rows for rows, _ in sizes) == 8
    assert max(columns for _, columns in sizes) == 16


def test_nearest_keys__refuses_what_cannot_be():
    bank = torch.randn(5, 2)
    with pytest.raises(ValueError, match="6 nearest neighbours of 5 reference images"):
        nearest_keys(bank, bank, 6)
    with pytest.raises(ValueError, match="bank_chunk is 0"):
        nearest_keys(bank, bank, 2, bank_chunk=0)


def test_pack__keeps_order_and_values():
    values = torch.tensor([-1.0, -0.5, -1e-30, -0.0, 0.0, 1e-38, 0.3, 1.0])
    keys = pack(values, torch.full((8,), 2**32 - 1))
    assert (keys.diff() >= 0).all()
    assert keys[3] == keys[4], "zeros of either sign are equal"
    similarities, places = unpack(keys)
    assert torch.equal(similarities, values)
    assert (places == 2**32 - 1).all()
    assert (pack(torch.zeros(4), torch.arange(4)).diff() < 0).all(), "of equal ones the first is the nearest"


def test_vote__class_without_a_vote_is_never_right():
    keys = pack(torch.tensor([[0.9, 0.8]]), torch.tensor([0, 1]))
    labels = torch.tensor([3, 3])
    assert vote(keys, labels, torch.tensor([0])) == {"top1": 0.0, "top5": 0.0}
    assert vote(keys, labels, torch.tensor([3])) == {"top1": 100.0, "top5": 100.0}


def test_vote__equal_sums_and_a_small_temperature():
    keys = pack(torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]))
    assert vote(keys, torch.tensor([1, 2]), torch.tensor([1]))["top1"] == 100
    assert vote(keys, torch.tensor([1, 2]), torch.tensor([2])) == {"top1": 0.0, "top5": 100.0}
    near = pack(torch.tensor([[1.0, 0.999]]), torch.tensor([0, 1]))  # exp(1 / 1e-4) has no float
    assert vote(near, torch.tensor([1, 0]), torch.tensor([1]), temperature=1e-4)["top1"] == 100
    with pytest.raises(ValueError, match="temperature is 0"):
        vote(near, torch.tensor([1, 0]), torch.tensor([1]), temperature=0)
    with pytest.raises(ValueError, match="no image to classify"):
        vote(near[:0], torch.tensor([1, 0]), torch.tensor([], dtype=torch.int64))


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


def knn_config(root, **changes):
    cfg = get_cfg().KNN
    cfg.TRAIN_ROOT, cfg.VAL_ROOT, cfg.K = str(root / "train"), str(root / "val"), 5
    for key, value in changes.items():
        cfg[key] = value
    return cfg


class Method(nn.Module):
    """As much of a contrast mechanism as the monitor looks at."""

    def __init__(self, name="encoder_q"):
        super().__init__()
        torch.manual_seed(0)
        setattr(self, name, build_resnet("resnet18", num_classes=4))


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
    monitored = train(KNNMonitor(knn_config(splits), 32, 2, num_workers=1))
    assert monitored.losses == alone.losses
    assert state_digest(monitored.method) == state_digest(alone.method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in monitored.method.modules())
    assert all(parameter.grad is not None for parameter in monitored.method.parameters())


@pytest.mark.parametrize(("period", "expected"), [(0, [1, 3, 4]), (4, [3, 4]), (9, [4])])
def test_monitor__after_each_period_and_at_the_end(splits, period, expected):
    trainer = train(KNNMonitor(knn_config(splits, PERIOD=period), 32, 2))
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
    return accuracy_by_loops(features["train"], labels["train"], features["val"], labels["val"], 5, 0.07)


def test_monitor__measures_the_query_encoder_without_its_head(splits):
    method = Method()
    monitor = KNNMonitor(knn_config(splits), 32, 1)
    found = monitor.measure(method, torch.device("cpu"))
    assert found == pytest.approx(measured_alone(splits, method))
    assert found == monitor.measure(Method("encoder"), torch.device("cpu")), "supervised training's name for it"


def measure_in_process(splits, lists_at_once):
    from detectron2.utils import comm

    knn.LISTS_AT_ONCE = lists_at_once
    gathered, gather = [], comm.gather
    comm.gather = lambda keys: gathered.append(gather(keys)) or gathered[-1]
    received, all_gather = [], comm.all_gather
    comm.all_gather = lambda data: received.append(all_gather(data)) or received[-1]
    method = Method()
    # Statistics differ between processes, as in training: all must look with the main process's and keep their own.
    method.encoder_q.bn1.running_mean.fill_(0.5 * comm.get_rank())
    before = state_digest(method)
    found = KNNMonitor(knn_config(splits, K=9), 32, 1).measure(method, torch.device("cpu"))
    most = max((sum(map(len, lists)) for lists in gathered), default=0)
    parts = [part for parts in received for part in parts if isinstance(part, torch.Tensor)]
    assert parts
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts), "nothing is sent that is not read"
    return found, state_digest(method) == before, most


@pytest.mark.parametrize(("lists_at_once", "most"), [(32768, 2 * 7), (8, 8)])
def test_monitor__two_processes_share_the_work(splits, lists_at_once, most):
    """K exceeds what either has of the bank; the main process merges the lists of 7 queries, or of 4 at a time."""
    expected = KNNMonitor(knn_config(splits, K=9), 32, 1).measure(Method(), torch.device("cpu"))
    found = run_in_processes(measure_in_process, splits, lists_at_once)
    assert found == [(expected, True, most), (expected, True, 0)]


def test_monitor__checks_its_folders_when_it_is_built(splits, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"KNN\.VAL_ROOT: '.*nowhere' is not a folder"):
        KNNMonitor(knn_config(splits, VAL_ROOT=str(tmp_path / "nowhere")), 32, 1)
    with pytest.raises(ValueError, match=r"KNN\.K is 14, but KNN\.TRAIN_ROOT .* has 13 images"):
        KNNMonitor(knn_config(splits, K=14), 32, 1)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "1.png")
    with pytest.raises(ValueError, match=r"KNN\.TRAIN_ROOT .*class0 \(training only\)"):
        KNNMonitor(knn_config(splits, VAL_ROOT=str(tmp_path)), 32, 1)
