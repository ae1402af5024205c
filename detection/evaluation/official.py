"""Running the official evaluation scripts of LVIS and Cityscapes unchanged, on a numpy newer than they know."""

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def replaced(owner: object, **attributes: object) -> Iterator[None]:
    """Give ``owner``, a module for example, other attributes while the block runs. They must exist."""
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
