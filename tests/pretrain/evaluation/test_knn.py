"""Weighted nearest neighbours against sorting in float64."""

import numpy as np
import pytest
import torch

from mocodet.pretrain.evaluation import knn
from mocodet.pretrain.evaluation.knn import knn_accuracy, nearest


def sorted_similarities(bank, queries):
    """Return the cosines of each query with all entries in falling order, and the entries' places, in float64."""
    units = [rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1)[:, None] for rows in (queries, bank)]
    similarities = units[0] @ units[1].T
    order = np.argsort(-similarities, axis=1)
    return np.take_along_axis(similarities, order, axis=1), order


def accuracy_by_sorting(bank, bank_labels, queries, query_labels, k, temperature):
    """Section 3.4 of Wu et al., one query at a time, with Python's floats."""
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
    assert all(10 < row["top1"] < 90 for row in expected), "a test in which all or none are correct shows nothing"
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
    assert every.shape == (40, 300), "of fewer entries, all are returned"


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
    """Classify one query with this label, given its similarities to a planar bank and the classes of the bank."""
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
    # exp(1 / 1e-4) exceeds a float
    assert classified([1.0, 0.999], [1, 0], 1, temperature=1e-4)["top1"] == 100
    assert classified([1.0, 0.999], [1, 0], 0, temperature=1e-4) == {"top1": 0.0, "top5": 100.0}
