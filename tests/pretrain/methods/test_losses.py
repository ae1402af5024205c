import math

import pytest
import torch

from mocodet.pretrain.methods.losses import contrast_accuracy, info_nce


def test_info_nce__equation_1_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0]])
    by_hand = [
        -math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(1))),
        -math.log(1 / (1 + math.exp(3) + math.exp(-1))),
    ]
    assert info_nce(logits).item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)


def test_info_nce__positive_in_another_column_of_each_row():
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 3.0, -1.0]])
    by_hand = [math.log1p(math.exp(-2) + math.exp(-1)), math.log1p(math.exp(1) + math.exp(4))]
    assert info_nce(logits, torch.tensor([1, 2])).item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)
    assert contrast_accuracy(logits, torch.tensor([1, 2])).item() == pytest.approx(0.5)


def test_contrast_accuracy__share_of_rows_whose_positive_wins():
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.5], [4.0, 3.9]])
    assert contrast_accuracy(logits).item() == pytest.approx(0.75)
