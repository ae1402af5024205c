import pytest
import torch
from torch import nn

from mocodet.pretrain.methods import MomentumContrast
from mocodet.pretrain.methods.grouped_bn import GroupedBatchNorm2d
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle, gather_rows
from tests.processes import run_in_processes


def shuffle_and_back(enabled: bool) -> list[dict[str, torch.Tensor]]:
    from detectron2.utils import comm

    shuffle = BatchShuffle(seed=5, enabled=enabled)
    records = []
    for number in range(5):
        rows = (torch.arange(6) + 6 * comm.get_rank() + 100 * number).view(6, 1).expand(6, 3).float()
        permutation = shuffle.draw(6)
        shuffled = shuffle.shuffle(rows, permutation)
        everything = gather_rows(rows)
        restored = shuffle.unshuffle_gathered(shuffled, permutation)
        records.append(
            {"permutation": permutation, "shuffled": shuffled, "everything": everything, "restored": restored}
        )
    return records


def gradient_through_gathering() -> tuple[torch.Tensor, torch.Tensor]:
    """Return this process's rows and their gradient; process r weights its loss at (row, column) by their sum and r."""
    from detectron2.utils import comm

    shuffle = BatchShuffle(seed=5)
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(comm.get_rank())).requires_grad_()
    restored = shuffle.unshuffle_gathered(rows, shuffle.draw(4))
    weights = torch.arange(len(restored))[:, None] + torch.arange(3) + comm.get_rank()
    (restored.square() * weights).sum().backward()
    return rows.detach(), rows.grad


def shuffle_in_this_process() -> dict:
    return {
        "enabled": shuffle_and_back(True),
        "not enabled": shuffle_and_back(False),
        "gradient": gradient_through_gathering(),
    }


@pytest.fixture(scope="module", params=[1, 3])
def shuffles(request) -> list[dict]:
    """The results of `shuffle_in_this_process`, in one process and in each of three."""
    alone = request.param == 1
    return [shuffle_in_this_process()] if alone else run_in_processes(shuffle_in_this_process, world_size=request.param)


def test_batch_shuffle__every_row_travels_and_returns(shuffles):
    for number in range(5):
        permutation = shuffles[0]["enabled"][number]["permutation"]
        assert not torch.equal(permutation, torch.arange(len(permutation)))
        for rank, found in enumerate(shuffles):
            record = found["enabled"][number]
            assert torch.equal(record["permutation"], permutation)
            mine = record["everything"][permutation][6 * rank : 6 * rank + 6]
            assert torch.equal(record["shuffled"], mine)
            assert torch.equal(record["restored"], record["everything"])


def test_batch_shuffle__not_enabled_moves_nothing(shuffles):
    for rank, found in enumerate(shuffles):
        for record in found["not enabled"]:
            assert torch.equal(record["permutation"], torch.arange(6 * len(shuffles)))
            assert torch.equal(record["shuffled"], record["everything"][6 * rank : 6 * rank + 6])
            assert torch.equal(record["restored"], record["everything"])


def test_unshuffle_gathered__gradient_of_all_losses_returns_to_each_row(shuffles):
    permutation = torch.randperm(4 * len(shuffles), generator=torch.Generator().manual_seed(5)).tolist()
    for rank, found in enumerate(shuffles):
        rows, gradient = found["gradient"]
        for row in range(4):
            original = permutation[4 * rank + row]
            for column in range(3):
                slope = sum(2 * rows[row, column] * (loss + original + column) for loss in range(len(shuffles)))
                torch.testing.assert_close(gradient[row, column], slope)


def test_batch_shuffle__continues_from_its_state():
    first, second = BatchShuffle(1), BatchShuffle(2)
    first.draw(8)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.draw(50), second.draw(50))


class Marked(nn.Module):
    """An encoder that records the images of each of its batch-norm groups, and their means."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if groups == 1 else GroupedBatchNorm2d(3, groups)
        self.groups = groups
        self.fc = nn.Linear(3, 4)
        self.seen = {}  # image number -> (the images it was normalised with, their mean)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for part in images.chunk(self.groups):
            numbers = part[:, 0, 0, 0].round().int().tolist()
            self.seen.update(dict.fromkeys(numbers, (frozenset(numbers), part.mean().item())))
        return self.fc(self.norm(images).mean(dim=(2, 3)))


def company_of_queries_and_keys(groups: int, shuffle: bool) -> list[dict]:
    """Return, for each of 20 steps, which images each query and each key was normalised with, and their mean."""
    from detectron2.utils import comm

    world, rank = comm.get_world_size(), comm.get_rank()
    moco = MomentumContrast(Marked(groups), BatchShuffle(0, enabled=shuffle), queue_size=8, dim=4)
    n = 16 // world
    steps = []
    for _ in range(20):
        images = (torch.arange(n) + n * rank).float().view(n, 1, 1, 1).expand(n, 3, 2, 2).contiguous()
        moco({"query": images, "key": images})
        encoders = {"query": moco.encoder_q, "key": moco.encoder_k}
        steps.append({name: dict(encoder.seen) for name, encoder in encoders.items()})
        for encoder in encoders.values():
            encoder.seen.clear()
    return steps


def all_companies() -> dict[tuple[int, bool], list[dict]]:
    return {
        (groups, shuffle): company_of_queries_and_keys(groups, shuffle)
        for groups in (1, 2)
        for shuffle in (True, False)
    }


def shared_statistics(ranks: list[list[dict]]) -> int:
    """Count the (step, image) pairs whose query and key were normalised by the same statistics."""
    shared = 0
    for step in range(20):
        queries, keys = ({k: v for steps in ranks for k, v in steps[step][view].items()} for view in ("query", "key"))
        assert sorted(queries) == sorted(keys) == list(range(16))
        shared += sum(queries[image] == keys[image] for image in range(16))
    return shared


def test_moco__query_and_key_see_different_statistics_in_two_processes():
    ranks = run_in_processes(all_companies)
    for groups in (1, 2):
        # A shuffled group could be the same set of images by chance; with this seed, none of 320 pairs shares it.
        assert shared_statistics([steps[groups, True] for steps in ranks]) == 0
        assert shared_statistics([steps[groups, False] for steps in ranks]) == 320


@pytest.mark.parametrize("groups", [2, 4])
def test_moco__query_and_key_see_different_statistics_in_one_process(groups):
    assert shared_statistics([company_of_queries_and_keys(groups, shuffle=True)]) == 0
    assert shared_statistics([company_of_queries_and_keys(groups, shuffle=False)]) == 320
