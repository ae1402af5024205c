import numpy as np
import pytest
import torch

from mocodet.pretrain.evaluation.accuracy import count_right, percent


@pytest.mark.parametrize("shape", [(50, 8), (50, 3), (50, 2, 8)])
def test_count_right__equals_sorting(shape):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(12, shape, generator=generator).float()  # many are equal
    labels = torch.randint(shape[-1], (50,), generator=generator)
    order = np.argsort(-scores.numpy(), axis=-1, kind="stable")  # on ties, the smaller class comes first
    right = order == labels.numpy().reshape(-1, *[1] * (len(shape) - 1))
    expected = np.stack([right[..., 0].sum(0), right[..., :5].any(-1).sum(0)])
    assert np.array_equal(count_right(scores, labels), expected)
    assert 0 < expected[0].min() <= expected[0].max() < 50
    assert (expected[1] < 50).all() or shape[-1] < 5


def test_percent():
    assert percent(torch.tensor([1, 3]), 8) == {"top1": 12.5, "top5": 37.5}
