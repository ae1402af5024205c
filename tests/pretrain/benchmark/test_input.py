"""Views of photographs, against Pillow's and torchvision's, on files that are like real ones."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from mocodet.pretrain.benchmark import input as part
from mocodet.pretrain.benchmark.photographs import COCO, SMALL, draw_photographs
from mocodet.pretrain.benchmark.plain_views import PlainViews
from tests.benchmarks import run_once


@pytest.mark.parametrize(("kind", "least", "most"), [(COCO, 100_000, 170_000), (SMALL, 8_000, 20_000)])
def test_photographs__are_as_large_as_real_ones(kind, least, most, tmp_path):
    draw_photographs(tmp_path / "images", 3, kind)
    files = sorted((tmp_path / "images").iterdir())
    assert len({file.read_bytes() for file in files}) == 3
    assert least < np.mean([file.stat().st_size for file in files]) < most
    with Image.open(files[0]) as image:
        assert image.size == (kind.width, kind.height)


def test_plain_views__are_two_of_each(tmp_path):
    draw_photographs(tmp_path / "images", 1, SMALL)
    first, second = PlainViews([str(tmp_path / "images/000000.jpg")], 24)[0]
    for view in (first, second):
        assert (view.dtype, view.shape) == (torch.float32, (3, 24, 24))
        assert view.min() >= -0.485 / 0.229 - 1e-5  # black, normalised
    assert not torch.equal(first, second)


def arguments(**changed: object) -> argparse.Namespace:
    return argparse.Namespace(
        **{"images": None, "crop": None, "count": 16, "workers": 0, "rate": 1000, "pairs": 1, **changed}
    )


def test_measure__of_a_folder(tmp_path, monkeypatch):
    run_once(monkeypatch, part)
    draw_photographs(tmp_path / "mine", 20, SMALL)
    (rows,) = part.measure(arguments(images=str(tmp_path / "mine"), crop=32))
    assert rows[0].name == "input, photographs of mine to 32 px"
    assert [row.contestant for row in rows] == [part.REFERENCE, *part.OURS, part.DECODING]
    for row in rows:
        # The number of cores for a thousand images per second, from one core's CPU time.
        assert float(row.details["cores for 1000 images/s"]) == pytest.approx(1000 / row.value, abs=0.06)
        assert (row.share is None) == ("CACHE" in row.contestant)


def test_measure__no_folder():
    with pytest.raises(FileNotFoundError, match="--images none is not a folder; expected a folder of photographs"):
        next(part.measure(arguments(images="none")))


def test_measure__with_workers_a_core_is_a_worker(monkeypatch):
    run_once(monkeypatch, part)
    monkeypatch.setattr(part, "OURS", {"mocodet, DATA.AUGMENT cpu": {"DATA.AUGMENT": "cpu"}})
    monkeypatch.setattr(part, "CASES", ((SMALL, 32),))
    (rows,) = part.measure(arguments(workers=2))
    assert {row.clock for row in rows} == {"wall"}
    for row in rows:
        assert float(row.details["cores for 1000 images/s"]) == pytest.approx(2000 / row.value, abs=0.06)


def test_link_some__takes_no_more_than_asked_for(tmp_path):
    draw_photographs(tmp_path / "mine", 5, SMALL)
    part.link_some(str(tmp_path / "mine"), tmp_path / "some", 3)
    linked = list((tmp_path / "some").iterdir())
    assert len({file.resolve() for file in linked}) == 3
    assert {file.resolve().parent.name for file in linked} == {"mine"}
