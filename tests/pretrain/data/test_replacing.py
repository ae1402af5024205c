"""The replacement of an image that cannot be read, for all sources of images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mocodet.pretrain.data.augment.opencv import OpenCVViews
from mocodet.pretrain.data.augment.recipes import find_recipe
from mocodet.pretrain.data.cache import cache_images
from mocodet.pretrain.data.decoding import UnreadableImageError
from mocodet.pretrain.data.folders import ImageFolder
from mocodet.pretrain.data.loader import load_batches
from mocodet.pretrain.data.replacing import ReplacingViews
from mocodet.pretrain.data.shards import ShardImages
from mocodet.pretrain.data.views import SKIPPED, Views, collate
from tests.pretrain.damaged import SORTS, png, write_damaged

MAKE = OpenCVViews(find_recipe("moco_v2"), 8, 0.2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for number in range(16):
        (folder / f"{number:02}.png").write_bytes(png(number, side=20))
    write_damaged(folder)
    return folder


def all_batches(images, count: int, **how) -> list[dict]:
    """Two epochs of a folder of 24 files in order, in batches of four."""
    views = ReplacingViews(images, MAKE, 5, size=count, **how)
    places = [[(place % count, place) for place in range(first, first + 4)] for first in range(0, 2 * count, 4)]
    return list(load_batches(views, 0, batch_sampler=places, collate_fn=collate))


def test_getitems__the_next_draw_takes_the_place(pool):
    images = ImageFolder(pool)
    batches = all_batches(images, 24)
    index = torch.cat([batch["index"] for batch in batches]).tolist()
    unread = {place for place, path in enumerate(images.paths) if Path(path).name in SORTS}
    assert not unread & set(index)
    plain = Views(images, MAKE, 5)
    replaced = []
    for draw, place in enumerate(index):
        if place != draw % 24:
            assert draw % 24 in unread
            replaced.append(place)
        view = batches[draw // 4]["query"][draw % 4]
        assert torch.equal(view, plain[place, draw]["query"]), "a view of that image, with the parameters of this draw"
    assert len(replaced) == 16
    assert len(set(replaced)) > 6, "any image, not always the same"
    listed = [Path(one.name).name for batch in batches for one in batch.get(SKIPPED, ())]
    assert set(listed) == set(SORTS)
    assert len(listed) >= 16


def test_getitems__same_from_a_cache_and_with_loader_processes(pool, tmp_path):
    images = ImageFolder(pool)
    expected = all_batches(images, 24)
    for place in ("ram", "disk", "disk"):
        found = all_batches(cache_images(images, place, str(tmp_path), 20, 0), 24)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one["query"], other["query"])
            assert one.get(SKIPPED) == other.get(SKIPPED)
    views = ReplacingViews(images, MAKE, 5, size=24)
    places = [[(place, place) for place in range(first, first + 4)] for first in range(0, 24, 4)]
    for one, other in zip(load_batches(views, 1, batch_sampler=places, collate_fn=collate), expected, strict=False):
        assert torch.equal(one["query"], other["query"])
        assert one.get(SKIPPED) == other.get(SKIPPED)


def test_getitems__what_is_left_out_is_replaced_alike_without_being_read(pool, tmp_path):
    copy = Path(shutil.copytree(pool, tmp_path / "pool", ignore=shutil.ignore_patterns("*.jpg", "[a-z]*.png")))
    write_damaged(copy)
    images = ImageFolder(pool)
    unread = frozenset(place for place, path in enumerate(images.paths) if Path(path).name in SORTS)
    found = all_batches(ImageFolder(copy), 24, left_out=unread)
    for one, other in zip(found, all_batches(images, 24), strict=True):
        assert torch.equal(one["key"], other["key"])
        assert SKIPPED not in one
    with pytest.raises(ValueError, match=r"excluded, and none of 100 attempted replacements can be used"):
        all_batches(images, 24, left_out=frozenset(range(24)))


def test_getitems__of_a_stream_the_next_of_the_batch_takes_the_place():
    items = [(f"a.tar: {number}.png", png(number, side=20) if number not in (1, 2) else b"x") for number in range(4)]
    views = ReplacingViews(ShardImages(), MAKE, 5)
    samples = views.__getitems__([(item, draw) for draw, item in enumerate(items)])
    plain = Views(ShardImages(), MAKE, 5)
    for draw, source in enumerate([0, 3, 3, 3]):
        assert torch.equal(samples[draw]["query"], plain[items[source], draw]["query"])
    assert not np.array_equal(samples[1]["query"], samples[2]["query"]), "in other crops"
    assert [one.name for one in collate(samples)[SKIPPED]] == ["a.tar: 1.png", "a.tar: 2.png", "a.tar: 2.png"]
    with pytest.raises(
        UnreadableImageError, match=r"^a\.tar: 2\.png cannot be read as .*, and none of 2 attempted replacements can be"
    ):
        views.__getitems__([(item, draw) for draw, item in enumerate(items[1:3])][::-1])
