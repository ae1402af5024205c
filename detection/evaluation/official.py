"""Runs the official LVIS and Cityscapes evaluation scripts unchanged with NumPy versions newer than they support."""

from types import SimpleNamespace

import numpy as np

# NumPy with the old names that the scripts still use; ``in1d`` flattened its first argument.
OLD_NAMES = {
    "bool": bool,
    "float": float,
    "in1d": lambda elements, test_elements: np.isin(np.ravel(elements), test_elements),
}
OLD_NUMPY = SimpleNamespace(**vars(np) | OLD_NAMES)
