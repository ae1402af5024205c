"""Random seeds for fine-tuning, with a separate seed for each purpose."""

from enum import IntEnum
from functools import reduce

from mocodet.common.seeds import mix


class Purpose(IntEnum):
    """The purpose for which random numbers are drawn."""

    ORDER = 0  # the order of the images
    IMAGE = 1  # the augmentation of an image
    STEP = 2  # the anchors and proposals of a step, and any other random choice of the model
    PRECISE_BN = 3  # the same as STEP, while batch-norm statistics are estimated


def seed_for(seed: int, purpose: Purpose, *place: int) -> int:
    """Return the 63-bit seed that a run seeded with ``seed`` uses for a purpose and position, such as an iteration."""
    return reduce(mix, (purpose, *place), seed)
