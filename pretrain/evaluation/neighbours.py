"""The nearest neighbours of a few fixed queries, which show the images that an encoder considers similar."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm

from ..data.crops import BoxCrops
from ..data.folders import LabelledImages
from .knn import nearest

QUERIES, NEIGHBOURS = 20, 8

# Neighbours whose similarities are equal to this many digits are in the order of the files: further digits differ
# between devices and batch sizes.
DIGITS = 4


def fixed_queries(labels: torch.Tensor, count: int = QUERIES) -> list[int]:
    """Draw places of images, the same in every run, with equal numbers (to within one) for all classes.

    Args:
        labels: N, int64.
        count: number of images; if there are fewer, all are drawn.
    """
    seen: Counter[int] = Counter()
    rounds = []
    classes = labels.tolist()
    for place in torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist():
        rounds.append((seen[classes[place]], place))
        seen[classes[place]] += 1
    # Sorting is stable: within a round the order is that of the draw, regardless of the classes.
    return [place for _, place in sorted(rounds, key=lambda drawn: drawn[0])[:count]]


@dataclass(frozen=True)
class SplitPart:
    """The part of a split that one process has.

    Attributes:
        split: the whole split.
        mine: the slice of its images that this process has.
        features: features of these images, n x D, on the CPU; they need not be normalised.
    """

    split: LabelledImages
    mine: slice
    features: torch.Tensor

    @property
    def places(self) -> range:
        """The places of this process's images."""
        return range(len(self.split.labels))[self.mine]

    @property
    def labels(self) -> torch.Tensor:
        """The labels of this process's images, n."""
        return self.split.labels[self.mine]


@torch.no_grad()
def fixed_neighbours(bank: SplitPart, queries: SplitPart, device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Find the images of the bank that are nearest to each of `fixed_queries`, by cosine similarity.

    All processes must call it, each with its part.

    Args:
        bank: images to search.
        queries: images from which the queries are drawn.
        device: where similarities are computed.

    Returns:
        in the main process, for each query its ``"path"``, its ``"class"`` and ``"neighbours"``, the nearest first,
        with ``"path"``, ``"class"`` and ``"similarity"``; for a crop also its ``"box"``: left, top, right, bottom. In
        other processes, an empty list.
    """
    chosen = fixed_queries(queries.split.labels)
    mine = {place: queries.features[queries.places.index(place)].clone() for place in chosen if place in queries.places}
    vectors = {place: vector for part in comm.all_gather(mine) for place, vector in part.items()}
    asked = torch.stack([vectors[place] for place in chosen])  # Q x D
    # Twice as many as are returned, since the choice among equally similar entries is undefined.
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
    return {"path": str(data.images.paths[place]), "class": data.classes[int(data.labels[place])], **box}
