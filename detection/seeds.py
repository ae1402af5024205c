"""What a fine-tuning draws at random, each thing from a seed of its own."""

from enum import IntEnum
from functools import reduce

from mocodet.common.seeds import mix


class Purpose(IntEnum):
    """What random numbers are for."""

    ORDER = 0  # of images
    IMAGE = 1  # the augmentation of one
    STEP = 2  # anchors and proposals of a step, and whatever else a model draws
    PRECISE_BN = 3  # the same, when batch-norm statistics are estimated


def seed_for(seed: int, purpose: Purpose, *place: int) -> int:
    """Return the seed, of 63 bits, by which a run of ``seed`` draws for a purpose at a place, such as an iteration."""
    return reduce(mix, (purpose, *place), seed)
