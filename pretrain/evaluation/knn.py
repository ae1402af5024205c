"""Weighted k-nearest-neighbour classification in feature space (Wu et al., CVPR 2018, section 3.4)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.utils import comm

from mocodet.common.progress import progress

from .accuracy import count_right, percent

# Number of queries and bank entries compared at once, which also limits the lists that the main process merges.
CHUNK = 2048

# Similarities (float32, in decreasing order) and classes (int64) of the neighbours, both M x k.
Neighbours = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def knn_accuracy(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    labels: torch.Tensor,
    ks: Sequence[int],
    temperature: float,
    device: torch.device | str = "cpu",
) -> list[dict[str, float]]:
    """Classify queries by votes of their nearest neighbours, weighted with ``exp(similarity / temperature)``.

    All processes must call this function with their own parts of the bank and of the queries, which may be empty. Each
    process searches its part of the bank, and the main process merges the results.

    Args:
        bank: features of the reference images, N x D, on the CPU. They need not be normalised.
        bank_labels: labels of the reference images, N, int64.
        queries: features of the images to classify, M x D, on the CPU. They need not be normalised.
        labels: labels of the images to classify, M, int64.
        ks: numbers of neighbours, from 1 to the total number of bank entries in all processes.
        temperature: tau, 0.07 in the paper.
        device: device on which cosine similarities are computed.

    Returns:
        for each of ``ks``, ``"top1"`` and ``"top5"``: the percentages of all queries whose class has the highest sum
        of votes, and one of the five highest sums. A class without votes is never correct. For ties, see `count_right`.
    """
    counts = comm.all_gather(len(queries))
    rounds = range(0, max(counts), max(1, CHUNK // len(counts) ** 2))
    right = torch.zeros(len(ks), 2, dtype=torch.int64)
    for begin in progress(rounds, "nearest neighbours, chunk", len(rounds)) if comm.is_main_process() else rounds:
        # Clone the slices, because a slice would be sent together with its complete tensor.
        mine = [rows[begin : begin + rounds.step].clone() for rows in (queries, labels)]
        parts = [part for part in comm.all_gather(mine) if len(part[1])]
        asked, truth = (torch.cat(rows) for rows in zip(*parts, strict=True))
        found = comm.gather(nearest(bank, bank_labels, asked, max(ks), device))
        if found:  # in the main process only
            similarities, voters = _merge(found, max(ks))
            for row, k in zip(right, ks, strict=True):
                row += _count_votes(similarities[:, :k], voters[:, :k], truth, temperature)
    return [percent(row, sum(counts)) for row in comm.all_gather(right)[0]]


def nearest(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, k: int, device: torch.device | str = "cpu"
) -> Neighbours:
    """Find the ``k`` entries of ``bank`` that are nearest to each query (or all entries, if there are fewer).

    The choice among equally similar entries is undefined. See `knn_accuracy` for the arguments.
    """
    queries = F.normalize(queries.to(device).float())
    best: Neighbours = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for entries, labels in zip(bank.split(CHUNK), bank_labels.split(CHUNK), strict=True) if len(bank) else ():
        similarities = queries @ F.normalize(entries.to(device).float()).T  # M x n
        found, places = similarities.topk(min(k, len(entries)), dim=1)
        best = _merge([best, (found.cpu(), labels[places.cpu()])], k)
    return best


def _merge(lists: Sequence[Neighbours], k: int) -> Neighbours:
    """Merge multiple lists of neighbours of the same queries and return the ``k`` nearest."""
    similarities, labels = (torch.cat(rows, dim=1) for rows in zip(*lists, strict=True))
    similarities, order = similarities.topk(min(k, similarities.shape[1]), dim=1)
    return similarities, labels.gather(1, order)


def _count_votes(
    similarities: torch.Tensor, voters: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    # Subtracting the similarity of the nearest neighbour preserves the order of the classes and prevents overflow.
    weights = ((similarities - similarities[:, :1]).double() / temperature).exp()
    classes = int(max(voters.max(), labels.max())) + 1
    votes = torch.zeros(len(labels), classes, dtype=torch.float64).scatter_add_(1, voters, weights)  # M x C
    voted = votes.gather(1, labels[:, None])[:, 0] > 0
    return count_right(votes[voted], labels[voted])
