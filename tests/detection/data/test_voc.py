import logging
from pathlib import Path

import pytest
from detectron2.data.datasets.pascal_voc import load_voc_instances
from PIL import Image

from mocodet.detection.data.voc import load_voc
from mocodet.detection.evaluation.kinds.voc import read_ground_truth
from tests.detection.tiny import CLASSES, SIZE, make_voc, voc_annotation, voc_object


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_voc(tmp_path, count=2)
    return tmp_path


def load(root: Path, split: str = "train", classes: tuple[str, ...] = CLASSES) -> list[dict]:
    return load_voc("mine", str(root), split, classes)


def annotate(root: Path, *objects: str) -> Path:
    path = root / "Annotations/train000.xml"
    path.write_text(voc_annotation(*objects))
    return path


def test_load_voc__is_detectron2s(root):
    annotate(root, voc_object("cat", (1.25, 0, 9.5, 9), difficult=1), voc_object("dog", (0, 0, SIZE, SIZE)))
    theirs = load_voc_instances(str(root), "train", CLASSES)
    assert load(root) == theirs
    assert load(root, classes=("dog", "cat")) == load_voc_instances(str(root), "train", ("dog", "cat"))


def test_load_voc__images_of_any_suffix(root):
    pictures = root / "JPEGImages"
    Image.open(pictures / "train000.jpg").save(pictures / "train000.PNG")
    (pictures / "train001.jpg").rename(pictures / "photo 1.JPEG")
    (root / "Annotations/train001.xml").rename(root / "Annotations/photo 1.xml")
    (root / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbftrain000.png\r\nphoto 1 1\r\n")
    with pytest.raises(
        ValueError, match=r"train000\.xml: may be about train000\.PNG, train000\.jpg; remove all but one"
    ):
        load(root)
    (pictures / "train000.jpg").unlink()
    records = load(root)
    assert [Path(record["file_name"]).name for record in records] == ["train000.PNG", "photo 1.JPEG"]
    assert [record["image_id"] for record in records] == ["train000", "photo 1"]
    # Where no image has the name of the XML file, its own word for it is taken.
    path = annotate(root)
    path.write_text(path.read_text().replace("<size>", "<filename>C:\\x\\other.PNG</filename><size>"))
    (pictures / "train000.PNG").rename(pictures / "other.PNG")
    assert Path(load(root)[0]["file_name"]).name == "other.PNG"


def test_load_voc__classes_choose_and_order(root, caplog):
    annotate(root, voc_object("cow", (1, 1, 9, 9)), voc_object("dog", (1, 1, 9, 9)), voc_object("cow", (2, 2, 9, 9)))
    with caplog.at_level(logging.WARNING):
        records = load(root, classes=("dog",))
    assert [len(record["annotations"]) for record in records] == [1, 1]
    assert "2 objects of other classes than CLASSES: cow (2); they are left out" in caplog.text
    truth = read_ground_truth(str(root), "train", ("dog",))
    assert {name: objects.num_positives for name, objects in truth.objects.items()} == {"dog": 2}
    with pytest.raises(ValueError, match="has no object of class 'Dog', but some of 'dog'; write the class in CLASSES"):
        load(root, classes=("Dog", "cow"))
    with pytest.raises(ValueError, match=r"has no object of the classes horse; its objects are cow \(2\), dog \(2\)"):
        load(root, classes=("horse",))


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("JPEGImages", r"no folder .*JPEGImages; ROOT must be"),
        ("JPEGImages/train001.jpg", r"JPEGImages/train001: is missing, .* and .*train\.txt names it"),
        ("Annotations/train000.xml", r"train000\.xml: is missing, and .*train\.txt names its image"),
        ("ImageSets/Main/train.txt", r"no split .*train.txt; the folder has none at all"),
    ],
)
def test_load_voc__missing(root, remove, message):
    (root / remove).rename(root / "elsewhere")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load(root)


def test_load_voc__sizes_are_compared_with_the_images(root, caplog):
    path = annotate(root, voc_object("cat", (1, 1, 9, 9)))
    good = path.read_text()
    path.write_text(good.replace(f"<width>{SIZE}<", "<width>0<"))
    with caplog.at_level(logging.WARNING):
        assert load(root)[0]["width"] == SIZE
    assert "1 repaired, such as" in caplog.text
    assert "train000.xml: has the <size> 0 x 64; the size is taken from the image" in caplog.text
    path.write_text(good.replace(f"<width>{SIZE}<", "<width>65<"))
    picture = root / "JPEGImages/train000.jpg"
    with pytest.raises(ValueError, match=r"train000\.jpg: is 64 x 64, but its annotation says 65 x 64; one of them"):
        load(root)
    picture.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train000\.jpg: cannot be read as an image \(of no known format\)"):
        load(root)


def test_load_voc__several_faults(root):
    for name in ("train000", "train001"):
        (root / f"Annotations/{name}.xml").write_text(voc_annotation(*[voc_object("cat", (9, 1, 3, 9))] * 3))
    message = r"mine: 6 faults, such as .*train000\.xml: object 1 .* \| and 3 more, which prepare-data --check lists"
    with pytest.raises(ValueError, match=message):
        load(root)
