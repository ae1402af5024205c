import pytest
import torch
from torch.utils.data import Dataset

from mocodet.pretrain.data.loader import load_batches


class Squares(Dataset):
    """Squares of places, and the threads of the process that computed them; one of them may be damaged."""

    def __init__(self, damaged: int = -1) -> None:
        self.damaged = damaged

    def __len__(self) -> int:
        return 6

    def __getitem__(self, place: int) -> tuple[int, int]:
        if place == self.damaged:
            raise ValueError(f"{place}.png cannot be read as an image (damaged); replace or remove it")
        return place**2, torch.get_num_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_load_batches__in_order_and_without_touching_random_numbers(workers):
    state = torch.get_rng_state()
    batches = list(load_batches(Squares(), workers, batch_sampler=[[0, 3], [1], [5, 4]]))
    assert [squares.tolist() for squares, _ in batches] == [[0, 9], [1], [25, 16]]
    assert torch.equal(torch.get_rng_state(), state)
    if workers:
        assert {int(threads) for _, per_image in batches for threads in per_image} == {1}


@pytest.mark.parametrize("workers", [0, 1])
def test_load_batches__damaged_image_is_named_on_one_line(workers):
    with pytest.raises(ValueError, match=r"^3\.png cannot be read as an image \(damaged\); replace or remove it$"):
        list(load_batches(Squares(damaged=3), workers, batch_size=2))
