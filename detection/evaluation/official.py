"""Running the official evaluation scripts of LVIS and Cityscapes unchanged, on a numpy newer than they know."""

from typing import Any

import numpy as np


class OldNumpy:
    """numpy with the names that it once had and the scripts still use: ``float`` and ``in1d``."""

    float = float

    @staticmethod
    def in1d(elements: np.ndarray, test_elements: np.ndarray) -> np.ndarray:
        """Tell for each of the flattened ``elements`` whether it is among ``test_elements``."""
        return np.isin(np.ravel(elements), test_elements)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)
