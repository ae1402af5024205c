"""Nearest neighbours of a few fixed queries, which show what images an encoder considers similar."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from ..data.crops import BoxCrops
from ..data.folders import LabelledImages
from .knn import nearest

QUERIES, NEIGHBOURS = 20, 8

# Neighbours whose similarities are equal to this many digits are sorted by file, because further digits vary between
# devices and batch sizes.
DIGITS = 4


def fixed_queries(labels: torch.Tensor, count: int = QUERIES) -> list[int]:
    """Sample image indices that are the same in every run and balanced across classes (to within one image).

    Args:
        labels: N, int64.
        count: number of images to sample. If there are fewer, all are returned.
    """
    seen: Counter[int] = Counter()
    rounds = []
    classes = labels.tolist()
    for place in torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist():
        rounds.append((seen[classes[place]], place))
        seen[classes[place]] += 1
    # Sorting is stable: within a round, the sampled order is preserved regardless of the classes.
    return [place for _, place in sorted(rounds, key=lambda drawn: drawn[0])[:count]]


@dataclass(frozen=True)
class SplitPart:
    """The part of a split that is assigned to one process.

    Attributes:
        split: the complete split.
        mine: slice of the images assigned to this process.
        features: features of these images, n x D, on the CPU. They need not be normalised.
    """

    split: LabelledImages
    mine: slice
    features: torch.Tensor

    @property
    def places(self) -> range:
        """The indices of this process's images."""
        return range(len(self.split.labels))[self.mine]

    @property
    def labels(self) -> torch.Tensor:
        """The labels of this process's images, n."""
        return self.split.labels[self.mine]


@torch.no_grad()
def fixed_neighbours(bank: SplitPart, queries: SplitPart, device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Find the bank images with the highest cosine similarity to each query in `fixed_queries`.

    All processes must call this function with their own parts of the splits.

    Args:
        bank: images to search.
        queries: images from which the queries are sampled.
        device: device on which similarities are computed.

    Returns:
        in the main process, a dict for each query with its ``"path"``, its ``"class"`` and its ``"neighbours"``,
        nearest first. Each neighbour has a ``"path"``, a ``"class"`` and a ``"similarity"``. Crops also have a
        ``"box"``: left, top, right, bottom. Other processes return an empty list.
    """
    chosen = fixed_queries(queries.split.labels)
    mine = {place: queries.features[queries.places.index(place)].clone() for place in chosen if place in queries.places}
    vectors = {place: vector for part in comm.all_gather(mine) for place, vector in part.items()}
    asked = torch.stack([vectors[place] for place in chosen])  # Q x D
    # Search for twice as many as are returned, because the choice among equally similar entries is undefined.
    found = comm.gather(nearest(bank.features, torch.tensor(bank.places), asked, 2 * NEIGHBOURS, device))
    if not found:
        return []
    similarities, images = (torch.cat(lists, dim=1).tolist() for lists in zip(*found, strict=True))
    results = []
    for query, values, places in zip(chosen, similarities, images, strict=True):
        order = sorted((-round(value, DIGITS), place) for value, place in zip(values, places, strict=True))
        alike = [{**_name(bank.split, place), "similarity": -value} for value, place in order[:NEIGHBOURS]]
        results.append({**_name(queries.split, query), "neighbours": alike})
    return results


def _name(data: LabelledImages, place: int) -> dict[str, Any]:
    box = {"box": list(data.images.boxes[place])} if isinstance(data.images, BoxCrops) else {}
    # Absolute, so that a report can be made from another folder.
    return {
        "path": str(Path(data.images.paths[place]).absolute()),
        "class": data.classes[int(data.labels[place])],
        **box,
    }
