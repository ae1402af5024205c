from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from mocodet.common.checks.findings import Tally
from mocodet.common.checks.semseg import check_label_images
from mocodet.common.formats.boxes import read_boxes
from mocodet.common.formats.labels import Meaning, read_labels


def save_labels(path: Path, values: np.ndarray, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette([255 - i // 3 for i in range(768)])
    elif mode != "L":
        image = image.convert(mode)
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "P"])
def test_read_labels__are_the_indices(tmp_path, mode):
    values = np.array([[0, 1, 2], [20, 255, 7]])
    path = save_labels(tmp_path / "a.png", values, mode)
    found = read_labels(path, 21, 255)
    assert found.dtype == np.uint8
    assert found.tolist() == values.tolist()
    if mode == "P":  # what this function is for
        assert read_image(str(path), "L").squeeze(2).tolist() != values.tolist()


@pytest.mark.parametrize("mode", ["RGB", "LA", "1", "I;16"])
def test_read_labels__not_indices(tmp_path, mode):
    path = save_labels(tmp_path / "a.png", np.zeros((2, 2)), mode)
    with pytest.raises(
        ValueError, match=rf"a\.png has the mode {mode}.*; labels must be 8-bit palette or greyscale images"
    ):
        read_labels(path, 21, 255)


def test_read_labels__value_that_is_no_class(tmp_path):
    path = save_labels(tmp_path / "a.png", np.array([[0, 3, 4, 9, 255]]))
    with pytest.raises(
        ValueError, match=r"a\.png contains the label 4, 9; labels must be below .* 4, or equal to 255, which is"
    ):
        read_labels(path, 4, 255)
    with pytest.raises(ValueError, match=r"contains the label 255;"):
        read_labels(path, 10, 0)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_read_labels__damaged(tmp_path, damage):
    path = save_labels(tmp_path / "a.png", np.random.default_rng(0).integers(0, 3, (40, 40)))
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "text": b"labels", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        read_labels(path, 3, 255)


def test_read_labels__missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"label image .*a\.png does not exist"):
        read_labels(tmp_path / "a.png", 3, 255)


def test_read_labels__values_of_the_classes(tmp_path):
    path = save_labels(tmp_path / "a.png", np.array([[0, 255, 7], [3, 3, 255]]))
    assert read_labels(path, 2, 255, (255, 0)).tolist() == [[1, 0, 255], [255, 255, 0]]


def found(root: Path, meaning: Meaning, *labels: object, learned: bool = True) -> list[str]:
    """Return the findings of a check on images with these rows of labels."""
    for place, values in enumerate(labels):
        rows = np.atleast_2d(values)
        save_labels(root / f"labels/{place}.png", rows)
        (root / "images").mkdir(exist_ok=True)
        Image.new("RGB", rows.shape[::-1]).save(root / f"images/{place}.jpg")
    folders = root / "images", root / "labels"
    lines = check_label_images(*folders, meaning, Tally(), learned=learned)
    return [f"{line.severity} {line}".replace(f"{root}/", "") for line in lines]


TWO = ("ground", "thing")


@pytest.mark.parametrize(
    ("meaning", "labels", "expected"),
    [
        (Meaning(TWO), ([0, 1], [0, 255]), []),  # 25 % is ignored
        (Meaning(TWO), ([0, 1, 255, 255],), []),  # half
        (
            Meaning(TWO),
            ([0, 255], [0, 0]),
            [
                "error labels: has no pixels of class 'thing' (value 1) in its 2 label images, whose values are 0 (75"
                " %, ground), 255 (25 %, ignored); if the values represent CLASSES in this order, set VALUES to"
                " [0, 255]; otherwise correct the labels or CLASSES"
            ],
        ),
        (Meaning(TWO, values=(0, 255)), ([0, 255], [0, 0]), []),
        (
            Meaning(TWO),
            ([0, 1, 255, 255, 255],),
            [
                "error labels: has an ignored value in more than 50% of the pixels in its 1 label images, whose values"
                " are 255 (60 %, ignored), 0 (20 %, ground), 1 (20 %, thing); if an ignored value is a class, set"
                " VALUES, one for each of CLASSES; otherwise set MAX_IGNORED 1",
                "note labels/0.png: has the ignored value 255 in more than half of its pixels",
            ],
        ),
        (
            Meaning(TWO, max_ignored=1),
            ([0, 1, 255, 255, 255],) * 2,
            ["note labels/0.png (and 1 more): has the ignored value 255 in more than half of its pixels"],
        ),
        (
            Meaning(("none", *TWO), ignore=0),  # an ignored class needs no pixels
            ([0, 1, 2],),
            [],
        ),
        (
            Meaning(TWO),
            ([0, 1, 9],),
            [
                "error labels/0.png: contains the label 9; labels must be below the number of classes, 2, or equal to"
                " 255, which is ignored; correct the labels, or set VALUES, one for each of CLASSES"
            ],
        ),
        (
            Meaning(TWO, values=(2, 1)),
            ([0, 1, 2, 0],),
            ["note labels: has values that are not in VALUES: 0 (2 pixels); they are ignored"],
        ),
        (
            Meaning(TWO, values=(2, 1)),
            ([0, 1, 2, 9, 255],),
            [
                "error labels: has an ignored value in more than 50% of the pixels in its 1 label images, whose values"
                " are 0 (20 %, no class), 1 (20 %, thing), 2 (20 %, ground), 9 (20 %, no class), 255 (20 %, ignored);"
                " if an ignored value is a class, set VALUES, one for each of CLASSES; otherwise set MAX_IGNORED 1",
                "note labels: has values that are not in VALUES: 0 (1 pixels), 9 (1 pixels); they are ignored",
            ],
        ),
    ],
)
def test_check__labels_together(meaning, labels, expected, tmp_path):
    assert found(tmp_path, meaning, *labels) == expected


def test_check__to_evaluate_a_class_may_be_absent(tmp_path):
    (line,) = found(tmp_path, Meaning(TWO), [0, 255, 0], learned=False)
    assert line.startswith("note labels: has no pixels of class 'thing' (value 1)")
    assert line.endswith("; excluded from the mean IoU")


def test_check__single_files(tmp_path):
    found(tmp_path, Meaning(TWO), [0, 1], [0, 1], [0, 1], [0, 1])
    Image.new("RGB", (3, 1)).save(tmp_path / "images/0.jpg")
    (tmp_path / "labels/1.png").write_bytes(b"labels")
    (tmp_path / "images/2.jpg").write_bytes(b"image")
    (tmp_path / "labels/3.png").unlink()
    lines = found(tmp_path, Meaning(TWO))
    assert [line.partition(":")[0] for line in lines] == [
        f"error {file}" for file in ("labels/3.png", "images/2.jpg", "labels/0.png", "labels/1.png")
    ]
    assert "is 2 x 1, but should be 3 x 1 according to its image 0.jpg" in lines[2]


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (255, {}, None),
        (256, {}, "but labels have 8 bits, and 255 means ignored; expected at most 255 classes"),
        (300, {}, "but labels have 8 bits, and 255 means ignored; expected at most 255 classes"),
        (256, {"ignore": 0}, None),
        (257, {"ignore": 0}, "but labels have 8 bits; expected at most 256 classes"),
        (255, {"values": tuple(range(1, 256))}, None),
        (300, {"values": (0, 1)}, "but labels have 8 bits, and 255 means ignored; expected at most 255 classes"),
        (
            256,
            {"values": tuple(range(256)), "ignore": 0},
            "but labels have 8 bits, and 255 means ignored; expected at most 255 classes",
        ),
    ],
)
def test_meaning__more_classes_than_8_bit_labels_have_values(count, changes, message):
    meaning = Meaning(tuple(map(str, range(count))), **changes)
    if message is None:
        meaning.check()
        return
    with pytest.raises(ValueError, match=f"^CLASSES contains {count} classes, {message}$"):
        meaning.check()


def test_read_boxes__kind_that_is_not_text():
    with pytest.raises(
        ValueError, match=r"^KNN\.DATASET is {'KIND': \['coco'\]}; expected an entry .* with KIND voc or"
    ):
        read_boxes({"KIND": ["coco"]}, "KNN.DATASET")
