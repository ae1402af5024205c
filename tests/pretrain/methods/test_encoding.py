"""The spread of encoded vectors, against the definition in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mocodet.pretrain.methods.encoding import spread


@pytest.mark.parametrize("shared", [0.0, 0.3, 100.0])
def test_spread__standard_deviation_of_each_dimension(shared):
    """The larger the part that all vectors share, the less they differ."""
    vectors = F.normalize(torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) + shared, dim=1)
    expected = np.mean([np.std(column) for column in vectors.double().numpy().T]) * 4
    assert spread(vectors).item() == pytest.approx(expected, rel=1e-4)
    assert {0.0: expected > 0.95, 0.3: 0.9 < expected < 0.98, 100.0: expected < 0.02}[shared]


def test_spread__of_one_vector_for_every_image_is_zero():
    vector = F.normalize(torch.ones(8, 6, requires_grad=True), dim=1)
    assert spread(vector).item() == 0
    assert not spread(vector).requires_grad
