"""The random draws of fine-tuning, each kind with its own seed."""

from enum import IntEnum
from functools import reduce

from mocodet.common.seeds import mix


class Purpose(IntEnum):
    """The purpose of random numbers."""

    ORDER = 0  # of images
    IMAGE = 1  # the augmentation of one
    STEP = 2  # anchors and proposals of a step, and anything else that a model draws
    PRECISE_BN = 3  # the same, while batch-norm statistics are estimated


def seed_for(seed: int, purpose: Purpose, *place: int) -> int:
    """Return the 63-bit seed with which a run of ``seed`` draws for a purpose at a place, such as an iteration."""
    return reduce(mix, (purpose, *place), seed)
