"""The readers are tested in test_checkpoint, test_array_pickle and test_convert_damaged."""

from pickle import UnpicklingError

import numpy as np
import pytest
import torch

from mocodet.common.encoders.safe_pickle import Array, DType


def test_array__is_filled_once():
    """A file may name an array again; filling it again would free the memory of tensors made from it."""
    array = Array((10**15,))
    assert array.shape == (0,)
    array.__setstate__((1, (2,), DType("f8", False, True), False, np.array([1.0, 2.0]).tobytes()))
    shared = torch.from_numpy(array)
    with pytest.raises(UnpicklingError, match=r"an array of shape \(1,\) that does not match its 8 bytes"):
        array.__setstate__((1, (1,), DType("f8", False, True), False, bytes(8)))
    assert shared.tolist() == [1, 2]
