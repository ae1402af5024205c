"""Random views of an image: one distribution (``recipes``, ``parameters``), computed in three places.

``pillow`` is the reference, torchvision's transforms. ``opencv`` computes the same in loader processes, several times
faster. ``batched`` computes colours, blur and flip on the training device, for a whole batch at once.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ..decoding import Images

# A sample's entry f"{view}{STEPS}" holds the steps that the view still needs (`batched.encode_steps`).
STEPS = "_steps"


class ViewMaker(Protocol):
    """Makes random views of one image, each from its own random crop.

    Attributes:
        augment: the value of ``DATA.AUGMENT`` that asks for it.
    """

    augment: str

    def __call__(self, images: Images, item: Any, names: Sequence[str], seed: int) -> dict[str, torch.Tensor]:
        """Return a view (uint8, 3 x size x size, RGB) of ``images[item]`` for each name, and perhaps its steps.

        All randomness comes from ``seed``; the process's own generators are not used.
        """
