import random

import numpy as np
import torch

from mocodet.common.seeds import generators_of, mix, seed_generators


def draw_some() -> tuple:
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_mix__no_two_of_many_neighbours_collide():
    assert len({mix(seed, draw) for seed in range(30) for draw in range(1000)}) == 30_000
    assert all(0 <= mix(seed, 5) < 2**63 for seed in (0, 1, 2**31, 2**62))


def test_seed_generators__reaches_every_generator_with_every_bit():
    drawn = []
    for seed in (5, 5, 6, 5 + 2**40):
        seed_generators(seed)
        drawn.append(draw_some())
    assert drawn[0] == drawn[1]
    assert not set(map(str, drawn[0])) & set(map(str, drawn[2]))
    assert drawn[0][:2] != drawn[3][:2]  # PyTorch's on the CPU knows the lower half


def test_generators_of__leaves_the_process_as_it_was():
    seed_generators(9)
    expected = draw_some()
    seed_generators(4)
    inner = draw_some()
    seed_generators(9)
    with generators_of(4):
        assert draw_some() == inner
    assert draw_some() == expected
