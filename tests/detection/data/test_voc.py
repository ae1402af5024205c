from pathlib import Path

import pytest

from mocodet.detection.data.voc import load_voc, read_split
from tests.detection.tiny import CLASSES, make_voc, voc_annotation, voc_object


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_voc(tmp_path, count=2)
    return tmp_path


def load(root: Path, split: str = "train", classes: tuple[str, ...] = CLASSES) -> list[dict]:
    return load_voc("mine", str(root), split, classes)


def test_load_voc__split_of_one_image(root):
    (root / "ImageSets/Main/one.txt").write_text("\n  train001  \n\n")
    assert [record["image_id"] for record in load(root, "one")] == ["train001"]


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("JPEGImages", "no folder .*JPEGImages; ROOT must be"),
        ("JPEGImages/train001.jpg", "train001 is in the split, but there is no .*train001.jpg"),
        ("Annotations/train000.xml", "train000 is in the split, but there is no .*train000.xml"),
        ("ImageSets/Main/train.txt", "no split .*train.txt; the folder has none at all"),
    ],
)
def test_load_voc__missing(root, remove, message):
    (root / remove).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=message):
        load(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "names no image"),
        ("train000 1\ntrain001 -1\n", "one image name a line, found 'train000 1'"),
        ("train000\ntrain000\n", "names 1 images twice"),
    ],
)
def test_read_split__malformed(root, text, message):
    (root / "ImageSets/Main/train.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split(str(root), "train")


GOOD = voc_annotation(voc_object("cat", (1, 1, 9, 9)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("cat", "cow"), "train000.xml holds an object of class 'cow'.*CLASSES has cat, dog"),
        (GOOD.replace("<difficult>0</difficult>", ""), "train000.xml lacks <difficult>"),
        (GOOD.replace("<pose>Left</pose>", ""), "lacks <pose>"),
        (GOOD.replace("<width>64</width>", ""), "lacks <size><width>"),
        (GOOD.replace("<xmax>9<", "<xmax>9.5<"), "<bndbox><xmax> must be a whole number, found '9.5'"),
        (GOOD.replace("<xmax>9<", "<xmax>1<"), r"a cat whose box is inside out: \(2, 2, 1, 9\)"),
        (GOOD[:-5], "train000.xml is not XML"),
    ],
)
def test_load_voc__malformed_annotation(root, text, message):
    (root / "Annotations/train000.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(root)
