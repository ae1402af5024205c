"""Neighbours of fixed queries against a search by hand."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from mocodet.pretrain.evaluation.neighbours import SplitPart, fixed_neighbours, fixed_queries


def test_fixed_queries__of_each_class_as_many_or_one_more():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    chosen = fixed_queries(labels, 10)
    assert len(set(chosen)) == 10
    assert sorted(Counter(labels[chosen].tolist()).values()) == [3, 3, 4]
    assert Counter(labels[fixed_queries(labels, 20)].tolist())[1] == 3, "the class has no more images"
    assert len(fixed_queries(labels, 3)) == len(set(labels[fixed_queries(labels, 3)].tolist())) == 3
    assert sorted(fixed_queries(labels, 100)) == list(range(73))


def test_fixed_queries__the_same_whatever_was_drawn_before():
    labels = torch.arange(100) % 7
    first = fixed_queries(labels)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert fixed_queries(labels) == first != sorted(first)
    assert torch.equal(torch.get_rng_state(), state)


def part(name: str, features: torch.Tensor) -> SplitPart:
    paths = [f"{name}/{place}.png" for place in range(len(features))]
    split = SimpleNamespace(
        images=SimpleNamespace(paths=paths), labels=torch.arange(len(features)) % 3, classes=["a", "b", "c"]
    )
    return SplitPart(split, slice(None), features)


def test_fixed_neighbours__are_those_of_a_search_by_hand():
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(rows, 6, generator=generator) for rows in (60, 30))
    bank[40:45] = bank[7]  # one photograph six times: equal images are in the order of the files
    queries[fixed_queries(torch.arange(30) % 3)[0]] = 2 * bank[7]
    found = fixed_neighbours(part("bank", bank), part("val", queries))
    assert len(found) == 20
    assert [row["similarity"] for row in found[0]["neighbours"][:6]] == [1.0] * 6
    units = bank.double().numpy() / np.linalg.norm(bank.double().numpy(), axis=1)[:, None]
    for query in found:
        place = int(Path(query["path"]).relative_to(Path("val").absolute()).stem)
        assert query["class"] == "abc"[place % 3]
        vector = queries[place].double().numpy()
        cosines = units @ vector / np.linalg.norm(vector)
        nearest = sorted(range(60), key=lambda other: (-round(cosines[other], 4), other))[:8]
        expected = [
            {"path": str(Path(f"bank/{n}.png").absolute()), "class": "abc"[n % 3], "similarity": round(cosines[n], 4)}
            for n in nearest
        ]
        assert query["neighbours"] == expected
