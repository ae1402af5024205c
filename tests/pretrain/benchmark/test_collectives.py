"""The exchange of a step, against gathering everything, in two processes."""

from mocodet.pretrain.benchmark.collectives import DIM, OURS, REFERENCE, compare
from tests.processes import run_in_processes


def test_compare__equal_keys_and_the_bytes_of_each_way():
    rows, size, world = 4, 8, 2
    images, keys = rows * 3 * size * size * 4, rows * DIM * 4
    for rank, (seconds, sizes) in enumerate(run_in_processes(compare, rows, size, 3, world_size=world)):
        assert {who: len(values) for who, values in seconds.items()} == {REFERENCE: 3, OURS: 3}, rank
        # Images go to the other process once, keys twice, and the order, int64, is broadcast.
        assert sizes[REFERENCE] == (world - 1) * (images + 2 * keys) + world * rows * 8
        # On average over permutations, half of the images are already in their places.
        assert sizes[OURS] == images / 2 + (world - 1) * keys
