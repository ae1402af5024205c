import re
from pathlib import Path

import pytest
from PIL import Image

from mocodet.common.checks.findings import Tally
from mocodet.common.checks.yolo import check_yolo
from mocodet.common.formats.coco import Coco
from mocodet.common.formats.hold_out import HoldOut
from mocodet.common.formats.yolo import YoloObject, read_label_file
from mocodet.common.formats.yolo_folder import label_file, read_yolo

SIZE = (40, 30)
GOOD = "1 0.5 0.5 0.25 0.2\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(path)


def read(tmp_path: Path, text: str | bytes) -> tuple[list[YoloObject], list[str], int]:
    path = write(tmp_path / "a.txt", text)
    found = read_label_file(path, SIZE, 2)
    lines = [f"{line.severity} {line}".replace(str(path), "a.txt") for line in found.findings]
    return list(found.objects), lines, found.count


def test_read_label_file__boxes_and_polygons_are_in_pixels(tmp_path):
    objects, lines, count = read(tmp_path, GOOD + "\n0 0.1 0.2 0.9 0.2 0.5 0.8\n")
    assert (lines, count) == ([], 2)
    assert objects[0] == YoloObject(1, 1, (15, 12, 10, 6), 60)
    triangle = objects[1]
    assert (triangle.line, triangle.index) == (3, 0)
    assert triangle.polygon == pytest.approx((4, 6, 36, 6, 20, 24))
    assert triangle.box == pytest.approx((4, 6, 32, 18))
    assert triangle.area == pytest.approx(32 * 18 / 2)


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        "  1.0\t.5 0.5 25e-2 0.2  \n\n",
    ],
)
def test_read_label_file__as_editors_leave_them(text, tmp_path):
    assert read(tmp_path, text) == ([YoloObject(1, 1, (15, 12, 10, 6), 60)], [], 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 0.5 0.5 0.25", "has 4 values; write class, x, y, width and height, or a class and the x, y"),
        ("1 0.5 0.5 0.25 0.2 0.9", "has 6 values; write class, x, y, .*, without a confidence"),
        ("0 .1 .2 .9 .2 .5 .8 .1", "has 8 values"),
        ("2 0.5 0.5 0.25 0.2", "has the class 2, but there are 2 class names; use an index from 0 to 1"),
        ("-1 0.5 0.5 0.25 0.2", "has the class -1"),
        ("0.5 0.5 0.5 0.25 0.2", "has the class 0.5"),
        ("cat 0.5 0.5 0.25 0.2", "is 'cat 0.5 0.5 0.25 0.2'; expected numbers"),
        ("1,0.5,0.5,0.25,0.2", "is '1,0.5,0.5,0.25,0.2'; expected numbers"),
        ("1 nan 0.5 0.25 0.2", "contains a value that is not finite"),
        ("1 0.5 inf 0.25 0.2", "contains a value that is not finite"),
        ("1 20 15 10 6", r"has the value 20, .* fractions from 0 to 1; divide pixel coordinates by .* \(40 x 30\)"),
        ("1 0.5 -0.1 0.25 0.2", r"has the value -0\.1"),
        ("1 0.5 0.5 0 0.2", "has a box without a positive width and height"),
        ("1 0.5 0.5 -0.001 0.2", "has a box without a positive width and height"),
        ("0 .5 .1 .5 .2 .5 .9", "has a polygon without a positive width and height"),
    ],
)
def test_read_label_file__errors(line, words, tmp_path):
    objects, (found,), count = read(tmp_path, f"{GOOD}{line}\n")
    assert len(objects) == 1
    assert count == 2
    assert re.match(rf"error a\.txt: line 2 {words}", found), found


def test_read_label_file__notes(tmp_path):
    objects, lines, _ = read(tmp_path, GOOD + GOOD + "0 0.01 0.5 0.5 0.5\n0 1.01 0.5 0.02 0.5\n" + GOOD)
    assert [one.line for one in objects] == [1, 3, 4]
    assert lines == [
        "repaired a.txt: line 2 (and 1 more) duplicates another line; used only once",
        "note a.txt: line 3 has a box that extends beyond its image; training clips the box",
    ]
    assert read(tmp_path, b"\xff\xfe\xff")[1][0].startswith("error a.txt: is not UTF-8 text")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/images/train/a.jpg", "/data/labels/train/a.txt"),
        ("/images/x/images/b.c.PNG", "/images/x/labels/b.c.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("/data/photos/a.jpg", "/data/photos/a.txt"),
        ("/data/images.jpg", "/data/images.txt"),
    ],
)
def test_label_file(path, expected):
    assert label_file(Path(path)) == Path(expected)


def make(root: Path, yaml: str | None, *images: str, labels: str = GOOD) -> Path:
    for name in images:
        image(root / name)
        write(label_file(root / name), labels)
    return root if yaml is None else write(root / "data.yaml", yaml)


def ids(coco: Coco) -> list[str]:
    assert [str(one) for one in coco.findings if one.severity == "error"] == []
    return [one["id"] for one in coco.images]


ULTRALYTICS = "path: .\ntrain: images/train\nval: images/val\ntest:\nnames:\n  0: cat\n  1: no\n"
LAYOUTS = {  # data.yaml, images, of which the last is another split's
    "ultralytics": (ULTRALYTICS, "images/train/a.jpg", "images/train/sub/b.PNG", "images/val/c.jpg"),
    "roboflow": (
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'no']\n",
        *("train/images/a.jpg", "train/images/b.jpg", "valid/images/c.jpg"),
    ),
    "of another machine": (
        ULTRALYTICS.replace("path: .", "path: /content/x"),
        "images/train/a.jpg",
        "images/val/c.jpg",
    ),
    "several": ("train: [one, two]\nnames: [cat, no]", "one/images/a.jpg", "two/images/a.jpg", "three/images/c.jpg"),
    "without data.yaml": (None, "images/train/a.jpg", "images/val/c.jpg"),
    "train first": (None, "train/images/a.jpg", "val/images/c.jpg"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_yolo__layouts(layout, tmp_path):
    yaml, *images = LAYOUTS[layout]
    path = make(tmp_path, yaml, *images)
    classes = ("cat", "no") if yaml is None else ()
    coco = read_yolo(path, "train", classes)
    assert ids(coco) == [name.rpartition(".")[0] for name in images[:-1]]
    assert coco.classes == ("cat", "no")
    assert coco.annotations[0] == {
        "id": f"{images[0].rpartition('.')[0]} line 1",
        "image_id": images[0].rpartition(".")[0],
        "category_id": 1,
        "bbox": [15, 12, 10, 6],
        "area": 60,
        "iscrowd": 0,
    }
    assert read_yolo(tmp_path, "train", classes) == coco


@pytest.mark.parametrize("beside", [True, False])
def test_read_yolo__one_folder(beside, tmp_path):
    folder = "" if beside else "images/"
    path = make(tmp_path / "images" / "mine", None, f"{folder}a.jpg", f"{folder}b.jpg")
    if beside:  # the folder is below one that is called images, by chance
        for name in "ab":
            write(path / f"{name}.txt", GOOD)
    write(path / "classes.txt", "cat\ndog\n")
    coco = read_yolo(path)
    assert (ids(coco), coco.classes) == ([f"{folder}a", f"{folder}b"], ("cat", "dog"))
    choices = (HoldOut(0.5, seed) for seed in range(99))
    apart = next(one for one in choices if one.takes(f"{folder}a", "test") and one.takes(f"{folder}b", "train"))
    parts = [read_yolo(path, split, hold_out=apart) for split in ("test", "train")]
    assert ids(parts[0]) + ids(parts[1]) == ids(coco)
    assert not [one for part in parts for one in part.findings]
    assert "2 images, but HOLD_OUT selects none" in str(read_yolo(path, "test", hold_out=HoldOut(0.001)).findings[0])
    assert len(coco.annotations) == 2


def test_read_yolo__lists(tmp_path):
    path = make(tmp_path / "set", "train: train.txt\nnames: [cat, dog]", *(f"images/{name}.jpg" for name in "abcd"))
    lines = "./images/a.jpg", "images\\b.jpg", "/content/drive/images/c.jpg", "images/a.jpg"
    write(tmp_path / "set/train.txt", "\r\n".join(lines))
    assert ids(read_yolo(path, "train")) == ["images/a", "images/b", "images/c"]
    write(tmp_path / "set/train.txt", "images/z.jpg\n")
    (error,) = read_yolo(path).findings
    assert str(error).endswith("train.txt: images/z.jpg does not exist; restore the image, or remove it from the list")


def test_read_yolo__negatives_and_what_is_lost_are_counted(tmp_path):
    path = make(tmp_path, "train: images\nnames: [cat, dog]", *(f"images/{name}.jpg" for name in "abc"))
    write(tmp_path / "labels/a.txt", "")
    (tmp_path / "labels/b.txt").unlink()
    write(tmp_path / "labels/sub/z.txt", GOOD)
    coco = read_yolo(path)
    assert len(ids(coco)) == 3
    assert [one["image_id"] for one in coco.annotations] == ["images/c"]
    assert [str(one).replace(f"{tmp_path}/", "") for one in coco.findings] == [
        "data.yaml: images/b has no label file; treated as an image without objects",
        "labels/sub/z.txt: has no image of the same name; its objects are ignored",
    ]


def test_read_yolo__classes_choose_and_order(tmp_path):
    path = make(tmp_path, "train: images\nnames: [cat, dog, cow]", "images/a.jpg", labels=GOOD + "2 .5 .5 .5 .5\n")
    coco = read_yolo(path, classes=("cow", "cat"))
    assert coco.classes == ("cow", "cat")
    assert [one["category_id"] for one in coco.annotations] == [2]
    assert "1 categories, with 1 annotations, that are not in CLASSES; they are ignored: dog (1)" in str(
        coco.findings[-1]
    )
    with pytest.raises(
        ValueError, match=r"CLASSES contains dogs, but the categories are cat, dog, cow; did you mean dog\?"
    ):
        read_yolo(path, classes=("dogs",))


YAML_ERRORS = {
    "names: [cat, cat]\ntrain: images": "names has cat more than once",
    "names: {0: cat, 2: dog}\ntrain: images": "names has 2 entries, but lacks index 1",
    "names: []\ntrain: images": r"names is \[\]",
    "train: images": "lacks the key names; found train",
    "- 1": r"lacks the key names; found \['1'\]",
    "names: [cat, dog": "is not YAML",
    "names: [cat, dog]\nnc: 3\ntrain: images": "nc is '3', but names has 2",
    "names: [cat, dog]\nkpt_shape: [17, 3]\ntrain: images": "has kpt_shape",
    "names: [cat, dog]": "defines no splits",
    "names: [cat, dog]\ntrain: {a: b}": "train is {'a': 'b'}",
    "names: [cat, dog]\ntrain: nowhere": "nowhere is part of the split, but cannot be read",
    "names: [cat, dog]\ntrain: empty": r"has no images \(\.jpg, \.png, \.\.\.\) in",
    "names: [cat, dog]\ntrain: bare": "has no label file for any of its 1 images; expected files such as .*bare/a.txt",
    "names: [cat, dog]\nval: images\ntest: images": "has the splits val, test, but SPLIT is train",
}


@pytest.mark.parametrize("yaml", YAML_ERRORS)
def test_read_yolo__errors_of_the_set(yaml, tmp_path):
    path = make(tmp_path, yaml, "images/a.jpg")
    (tmp_path / "empty").mkdir()
    image(tmp_path / "bare/a.jpg")
    errors = [
        str(one) for one in read_yolo(path, "train" if "val:" in yaml else "").findings if one.severity == "error"
    ]
    assert len(errors) == 1
    assert re.search(YAML_ERRORS[yaml], errors[0]), errors
    assert errors[0] in [str(one) for one in check_yolo(path, Tally(), splits=["train"] if "val:" in yaml else [])]


def test_read_yolo__errors_of_images(tmp_path):
    path = make(tmp_path, "train: images\nnames: [cat, dog]", "images/a.jpg", "images/b.jpg", "images/c.jpg")
    image(tmp_path / "images/a.png")
    write(tmp_path / "images/b.jpg", "no image")
    tally = Tally()
    lines = [str(one).replace(f"{tmp_path}/", "") for one in check_yolo(path, tally)]
    assert lines == [
        "data.yaml: a.jpg, a.png share the label file a.txt, because they differ only in their suffix; remove all but"
        " one",
        "images/b.jpg: cannot be read as an image (unrecognised format); replace or remove it",
    ]
    assert tally.counts["annotations"] == 3
    with pytest.raises(FileNotFoundError, match=r"no data\.yaml file or folder exists at"):
        read_yolo(tmp_path / "nowhere")
    bare = make(tmp_path / "bare", None, "images/a.jpg")
    assert "does not define class names" in str(read_yolo(bare).findings[0])
