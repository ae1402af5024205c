"""Random views of an image, with one distribution (``recipes``, ``parameters``) and three implementations.

``pillow`` is the reference and uses torchvision's transforms. ``opencv`` computes the same views in loader processes,
several times faster. ``batched`` applies colour changes, blur and flips on the training device, to a batch at a time.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ..decoding import Images

# Suffix of a sample's entry f"{view}{STEPS}", which contains the remaining steps of the view (`batched.encode_steps`).
STEPS = "_steps"


class ViewMaker(Protocol):
    """Creates random views of an image, each from a separate random crop.

    Attributes:
        augment: the value of ``DATA.AUGMENT`` that selects this implementation.
    """

    augment: str

    def __call__(self, images: Images, item: Any, names: Sequence[str], seed: int) -> dict[str, torch.Tensor]:
        """Return a view (uint8, 3 x size x size, RGB) of ``images[item]`` for each name, and any remaining steps.

        All randomness is derived from ``seed``. The random generators of the process are not used.
        """
