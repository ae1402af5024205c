"""Derives random numbers from a run's seed and a position in the run, so that a resumed run samples the same ones."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(seed: int, draw: int) -> int:
    """Hash a run's seed and the index of a draw, so that adjacent values of either yield unrelated seeds.

    PyTorch's CPU generator uses only the lower 32 of the 63 bits. In a long run, two draws therefore occasionally share
    a seed, and two images share their crops.

    The hash applies the finaliser of SplitMix64 (Steele et al., OOPSLA 2014) to both numbers in turn.
    """
    mask = (1 << 64) - 1
    state = 0
    for number in (seed, draw):
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


def seed_generators(seed: int) -> None:
    """Seed this process's global generators: Python's, NumPy's, and PyTorch's for the CPU and every GPU.

    The function does not wait for a GPU.

    Args:
        seed: a 63-bit seed, such as the result of `mix`.
    """
    _seed_python_and_numpy(seed)
    torch.manual_seed(seed)


@contextmanager
def generators_of(seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU while the block runs, and restore their states afterwards.

    Args:
        seed: a 63-bit seed, such as the result of `mix`.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        _seed_python_and_numpy(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_python_and_numpy(seed: int) -> None:
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
