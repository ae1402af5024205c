from pathlib import Path

import numpy as np
import pytest

from mocodet.common.checks import cityscapes
from mocodet.common.checks.findings import Tally
from tests.common.checks.good import HEIGHT, WIDTH, png
from tests.common.prepared import FRAME, make_streets
from tests.common.prepared import label_file as gt


@pytest.fixture
def streets(tmp_path):
    return make_streets(tmp_path)


def left(split: str = "train") -> str:
    return f"cityscapes/leftImg8bit/{split}/{FRAME}_leftImg8bit.png"


def blank(value: int, size: tuple[int, int] = (WIDTH, HEIGHT)):
    return lambda path: png(path, np.full(size[::-1], value, np.uint8))


def polygons(old: str, new: str):
    return lambda path: path.write_text(path.read_text().replace(old, new))


CITYSCAPES_FAULTS = [
    (gt("labelIds.png"), Path.unlink, "is missing"),
    (gt("instanceIds.png"), Path.unlink, "is missing"),
    (gt("polygons.json", "val"), Path.unlink, "is missing"),
    (gt("labelTrainIds.png"), Path.unlink, "mocodet prepare-data cityscapes"),
    (gt("labelTrainIds.png"), blank(3), "does not match aachen_000000_000019_gtFine_labelIds.png"),
    (gt("labelTrainIds.png"), blank(19), "has the label 19, which is not a class; valid labels are 0-18, 255"),
    (gt("labelIds.png"), blank(34), "has the label 34, which is not a class; valid labels are 0-33"),
    (gt("labelIds.png"), blank(7, (30, 40)), "is 30 x 40, but should be 40 x 30 according to its image"),
    (gt("instanceIds.png"), blank(77), "has instances of label 77"),
    (gt("polygons.json"), polygons("road", "raod"), "object 1 has the label 'raod'"),
    (gt("polygons.json"), polygons("[0, 10], [39, 10], ", ""), "object 1 (road) has no polygon"),
    (gt("polygons.json"), polygons("}", ""), "is not JSON"),
    (gt("polygons.json"), polygons('"imgWidth": 40', '"imgWidth": 41'), "specifies an image size of 41 x 30"),
    (left(), lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot be read as an image"),
    (
        gt("instanceIds.png", "test/../val").replace("test/../", ""),
        lambda path: path.write_bytes(b""),
        "cannot be read as an image",
    ),
]


@pytest.mark.parametrize(("file", "spoil", "words"), CITYSCAPES_FAULTS)
def test_cityscapes__check(streets, file, spoil, words):
    assert list(cityscapes.check(streets, Tally(), any_size=True)) == []
    spoil(streets / file)
    (found,) = cityscapes.check(streets, Tally(), any_size=True)
    assert found.file == streets / file
    assert words in found.what


def test_cityscapes__check_of_names_and_counts(streets):
    image = streets / left()
    image.rename(image.with_name("frame.png"))
    found = list(cityscapes.check(streets, Tally()))
    assert [fault.what.partition(",")[0] for fault in found] == [
        "is not named *_leftImg8bit.png",
        f"has no image {image}; run prepare-data with --only leftImg8bit --again",
        "has 0 images",
        "has 1 images",
    ]
