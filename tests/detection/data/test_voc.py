import logging
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from detectron2.data.datasets.pascal_voc import load_voc_instances
from PIL import Image

from mocodet.common.checks.findings import Tally
from mocodet.common.checks.voc import check_layout
from mocodet.common.formats.hold_out import HoldOut
from mocodet.common.formats.voc_folder import VocFolder
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
        ValueError, match=r"train000\.xml: may refer to train000\.PNG, train000\.jpg; remove all but one"
    ):
        load(root)
    (pictures / "train000.jpg").unlink()
    records = load(root)
    assert [Path(record["file_name"]).name for record in records] == ["train000.PNG", "photo 1.JPEG"]
    assert [record["image_id"] for record in records] == ["train000", "photo 1"]
    # If no image has the name of the XML file, the name inside the file counts.
    path = annotate(root)
    path.write_text(path.read_text().replace("<size>", "<filename>C:\\x\\other.PNG</filename><size>"))
    (pictures / "train000.PNG").rename(pictures / "other.PNG")
    assert Path(load(root)[0]["file_name"]).name == "other.PNG"


def test_load_voc__classes_choose_and_order(root, caplog):
    annotate(root, voc_object("cow", (1, 1, 9, 9)), voc_object("dog", (1, 1, 9, 9)), voc_object("cow", (2, 2, 9, 9)))
    with caplog.at_level(logging.WARNING):
        records = load(root, classes=("dog",))
    assert [len(record["annotations"]) for record in records] == [1, 1]
    assert "2 objects of classes that are not in CLASSES: cow (2); they are ignored" in caplog.text
    truth = read_ground_truth(str(root), "train", ("dog",))
    assert {name: objects.num_positives for name, objects in truth.objects.items()} == {"dog": 2}
    with pytest.raises(
        ValueError, match="has no objects of class 'Dog', but objects of class 'dog'; spell the class in CLASSES"
    ):
        load(root, classes=("Dog", "cow"))
    with pytest.raises(ValueError, match=r"has no objects of the classes horse; its objects are cow \(2\), dog \(2\)"):
        load(root, classes=("horse",))


def as_folders(root: Path, layout: str) -> None:
    """Move images and XML files to where other tools leave them, without lists."""
    shutil.rmtree(root / "ImageSets")
    images, annotations = {
        "side by side": (".", "."),
        "renamed": ("images", "annotations"),
        "one": ("images", "images"),
    }[layout]
    for old, new in (("JPEGImages", images), ("Annotations", annotations)):
        (root / new).mkdir(exist_ok=True)
        for file in (root / old).iterdir():
            file.rename(root / new / file.name)
        (root / old).rmdir()


@pytest.mark.parametrize("layout", ["side by side", "renamed", "one"])
def test_load_voc__without_lists(layout, tmp_path, caplog):
    make_voc(tmp_path, count=12)
    expected = {record["image_id"]: record for record in load(tmp_path)}
    as_folders(tmp_path, layout)
    with pytest.raises(
        FileNotFoundError, match=r"split .*train\.txt does not exist; .* none; set SPLIT .*, or set HOLD_OUT 0\.2"
    ):
        load(tmp_path)
    parts = [load_voc("mine", str(tmp_path), split, CLASSES, HoldOut(0.3)) for split in ("train", "test")]
    names = [[record["image_id"] for record in part] for part in parts]
    for record in parts[0] + parts[1]:
        known = expected[record["image_id"]]
        assert {**record, "file_name": ""} == {**known, "file_name": ""}
        assert Path(record["file_name"]).name == Path(known["file_name"]).name
    assert sorted(names[0] + names[1]) == sorted(expected)
    # As documented: by the first 8 bytes of the hash of seed and name.
    share = {name: int(sha256(f"0/{name}".encode()).hexdigest()[:16], 16) / 2**64 for name in expected}
    assert names[1] == [name for name in sorted(expected) if share[name] < 0.3]
    assert names[1] != [r["image_id"] for r in load_voc("mine", str(tmp_path), "test", CLASSES, HoldOut(0.3, 1))]
    truth = read_ground_truth(str(tmp_path), "test", CLASSES, HoldOut(0.3))
    assert list(truth.images) == names[1]

    listed = tmp_path / "my list.txt"
    listed.write_text("train003\ntrain001.jpg\n")
    assert [record["image_id"] for record in load(tmp_path, str(listed))] == ["train003", "train001"]
    assert read_ground_truth(str(tmp_path), "my list.txt", CLASSES).images == ["train003", "train001"]

    xml = next(tmp_path.rglob("train003.xml"))
    xml.rename(tmp_path / "unlabelled")
    found = list(check_layout(tmp_path, CLASSES, tally := Tally()))
    assert [str(one) for one in found] == []
    assert tally.notes == [
        f"{tmp_path} has no lists of images; set SPLIT to the path of a list, or divide the images with HOLD_OUT",
        f"{tmp_path}: 1 images have no XML file",
    ]
    assert tally.counts["objects"] == 11
    (error,) = (str(one) for one in check_layout(tmp_path, CLASSES, Tally(), lists=[listed]) if one.severity == "error")
    assert f"train003.xml: is missing, but {listed} lists its image" in error
    with caplog.at_level(logging.WARNING):
        load_voc("mine", str(tmp_path), "train", CLASSES, HoldOut(0.3))
    assert "train003 has an image but no XML file; ignored" in caplog.text


def specify(root: Path, name: str, filename: str) -> None:
    """Rename the image of an XML file to ``filename``, and write this name in the XML file."""
    path = root / f"Annotations/{name}.xml"
    path.write_text(path.read_text().replace("<size>", f"<filename>{filename}</filename><size>"))
    (root / f"JPEGImages/{name}.jpg").rename(root / "JPEGImages" / filename)


def test_load_voc__two_xml_files_for_one_image(tmp_path):
    make_voc(tmp_path, count=3)
    specify(tmp_path, "train002", "train000.jpg")
    shared = (
        r"Annotations: train000\.xml, train002\.xml share the image train000\.jpg; merge their objects into one file"
    )
    with pytest.raises(ValueError, match=shared):
        load(tmp_path)
    # HOLD_OUT puts only one of the files in each split.
    names = {split: VocFolder(tmp_path).find_names(split, HoldOut(0.5))[0] for split in ("train", "test")}
    assert names == {"train": ["train000", "train001"], "test": ["train002"]}
    for split in names:
        with pytest.raises(ValueError, match=shared):
            load_voc("mine", str(tmp_path), split, CLASSES, HoldOut(0.5))


def test_hold_out__an_image_that_filename_specifies_has_an_xml_file(tmp_path, caplog):
    make_voc(tmp_path, count=3)
    specify(tmp_path, "train002", "other.jpg")
    with caplog.at_level(logging.WARNING):
        parts = [load_voc("mine", str(tmp_path), split, CLASSES, HoldOut(0.5)) for split in ("train", "test")]
    assert [Path(record["file_name"]).name for record in parts[1]] == ["other.jpg"]
    assert "no XML file" not in caplog.text
    (tmp_path / "Annotations/train002.xml").unlink()
    with caplog.at_level(logging.WARNING):
        load_voc("mine", str(tmp_path), "train", CLASSES, HoldOut(0.5, 1))
    assert "other has an image but no XML file; ignored" in caplog.text


def test_hold_out__subfolders(tmp_path):
    make_voc(tmp_path, count=3)
    listed = tmp_path / "ImageSets/Main/train.txt"
    listed.write_text("".join(f"s1/{name}\n" for name in listed.read_text().split()))
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).rename(tmp_path / "s1")
        (tmp_path / folder).mkdir()
        (tmp_path / "s1").rename(tmp_path / folder / "s1")
    parts = [load_voc("mine", str(tmp_path), split, CLASSES, HoldOut(0.5)) for split in ("test", "train")]
    assert [[record["image_id"] for record in part] for part in parts] == [
        ["s1/train000"],
        ["s1/train001", "s1/train002"],
    ]
    assert parts[0] + parts[1] == load(tmp_path)
    # Side by side, the folders of other data sets are not read.
    (tmp_path / "Annotations").rename(tmp_path / "elsewhere")
    make_voc(tmp_path / "sets", count=1)
    for file in (tmp_path / "elsewhere/s1").iterdir():
        file.rename(tmp_path / file.name)
    assert VocFolder(tmp_path).labelled == {"train000", "train001", "train002"}


def test_hold_out__no_xml_files(root):
    for file in (root / "Annotations").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="Annotations: has no XML files; add one for each labelled image, or remove"):
        load_voc("mine", str(root), "train", CLASSES, HoldOut(0.5))


def test_labelled__subfolders_without_images_are_left_out(root):
    shutil.copytree(root / "Annotations", root / "Annotations/backup")
    assert VocFolder(root).labelled == {"train000", "train001"}
    shutil.copytree(root / "JPEGImages", root / "JPEGImages/backup")
    assert VocFolder(root).labelled == {"train000", "train001", "backup/train000", "backup/train001"}


def test_load_voc__boxes_in_fractions(root):
    fractions = [voc_object("cat", (-0.75, -1, 1, 0.5)), voc_object("cow", (-1, -1, 1, 1))]  # written plus 1
    for name in ("train000", "train001"):
        (root / f"Annotations/{name}.xml").write_text(voc_annotation(*fractions))
    message = r"set mine: \S*Annotations: has boxes that seem to be fractions .*; multiply them by .* width and height$"
    with pytest.raises(ValueError, match=message):
        load(root)
    annotate(root, *fractions, voc_object("cow", (1, 1, 9, 9)))  # of a class that is not in CLASSES
    assert [len(record["annotations"]) for record in load(root)] == [1, 1]


def test_load_voc__boxes_in_images_of_one_pixel_are_not_fractions(root):
    for name in ("train000", "train001"):
        path = root / f"Annotations/{name}.xml"
        path.write_text(voc_annotation(voc_object("cat", (0, 0, 1, 1))).replace(f">{SIZE}<", ">1<"))
        Image.new("RGB", (1, 1)).save(root / f"JPEGImages/{name}.jpg")
    assert [record["annotations"][0]["bbox"] for record in load(root)] == [[0, 0, 1, 1]] * 2


def test_hold_out__an_image_stays_when_others_are_added(tmp_path):
    for count in (3, 12):
        make_voc(tmp_path / str(count), count=count)
    few, many = (
        [r["image_id"] for r in load_voc("mine", str(tmp_path / n), "test", CLASSES, HoldOut(0.5))] for n in ("3", "12")
    )
    assert few == [name for name in many if name < "train003"]
    with pytest.raises(
        ValueError, match=r"has 3 XML files, but HOLD_OUT 0\.001 selects none of them for test; change HOLD_OUT_SEED"
    ):
        load_voc("mine", str(tmp_path / "3"), "test", CLASSES, HoldOut(0.001))


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("JPEGImages", r"the folder .*JPEGImages does not exist; ROOT must be"),
        ("JPEGImages/train001.jpg", r"JPEGImages/train001: is missing .* but .*train\.txt lists it"),
        ("Annotations/train000.xml", r"train000\.xml: is missing, but .*train\.txt lists its image"),
        ("ImageSets/Main/train.txt", r"split .*train.txt does not exist; available splits: none"),
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
    assert "1 repaired, for example" in caplog.text
    assert "train000.xml: has the <size> 0 x 64; the size is read from the image" in caplog.text
    path.write_text(good.replace(f"<width>{SIZE}<", "<width>65<"))
    picture = root / "JPEGImages/train000.jpg"
    with pytest.raises(
        ValueError, match=r"train000\.jpg: is 64 x 64, but should be 65 x 64 according to its annotation; check"
    ):
        load(root)
    picture.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train000\.jpg: cannot be read as an image \(unrecognised format\)"):
        load(root)


def test_load_voc__several_faults(root):
    for name in ("train000", "train001"):
        (root / f"Annotations/{name}.xml").write_text(voc_annotation(*[voc_object("cat", (9, 1, 3, 9))] * 3))
    message = r"mine: 6 errors, including .*train000\.xml: object 1 .* \| and 3 more; use prepare-data --check to list"
    with pytest.raises(ValueError, match=message):
        load(root)
