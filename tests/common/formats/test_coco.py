import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from mocodet.common.formats.coco import Coco, choose_classes, read_coco
from mocodet.common.formats.runs import measure_runs
from tests.common.checks.good import HEIGHT, WIDTH, coco_content, jpeg

SQUARE = [1, 1, 20, 1, 20, 15, 1, 15]


def read(root: Path, content: object, encoding: str = "utf-8", **options: object) -> Coco:
    path = root / "instances.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return read_coco(path, **options)


def edited(**values: object) -> dict:
    """Content whose first annotation, number 11, has other values; None: it lacks the key."""
    content = coco_content()
    content["annotations"][0].update(values)
    return content


def changed(kind: str, place: int, **values: object) -> dict:
    content = coco_content()
    content[kind][place].update(values)
    return content


def errors(coco: Coco) -> list[str]:
    return [str(finding) for finding in coco.findings if finding.severity == "error"]


def mask(values: object) -> dict:
    encoded = mask_utils.encode(np.asfortranarray(np.asarray(values, np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


HALF = np.repeat([[1], [0]], HEIGHT // 2, axis=0).repeat(WIDTH, axis=1)

ERRORS = [
    (edited(image_id=7), "annotation 11 (image 7) refers to image 7, which is not in the file"),
    (edited(image_id=[1]), "annotation 11 (image [1]) refers to image [1], which is not in the file"),
    (edited(image_id=True), "refers to image True, which"),
    (edited(category_id=2), "annotation 11 (image 1) refers to category 2, which is not in the file"),
    (edited(id=[3]), "annotation number 0 of the list (image 1) has the id [3]"),
    (edited(id=13), "annotation 13 (number 2 of the list) (image 1) has the id of another annotation"),
    (edited(bbox=[1, 2, 3]), "has the bbox [1, 2, 3]; it must be four numbers"),
    (edited(bbox=None), "has the bbox None"),
    (edited(bbox=[1, 2, 3, "4"]), "it must be four numbers"),
    (edited(bbox=[1, 2, float("nan"), 4]), "it must be four numbers"),
    (edited(bbox=[float("inf"), 2, float("-inf"), 4]), "it must be four numbers"),
    (edited(bbox=[0, 0, 10**300, 1]), "it must be four numbers"),
    (edited(bbox=[10**300, -(10**300), 5, 5]), "it must be four numbers"),
    (edited(bbox=[9, 9, -3, 4]), "[9, 9, -3, 4], whose width or height is negative"),
    (edited(bbox=[1, 2, 0, 4]), "[1, 2, 0, 4], which is empty"),
    (edited(bbox=[WIDTH, 2, 3, 4]), "outside its image, which is 40 x 30"),
    (edited(bbox=[-3, 2, 3, 4]), "outside its image, which is 40 x 30"),
    (edited(iscrowd=2), "has iscrowd 2; it must be 0 or 1"),
    (edited(iscrowd=[]), "has iscrowd []"),
    (edited(area=-1), "has the area -1"),
    (edited(area="5"), "has the area '5'"),
    (edited(area=10**400), "it must be a number of square pixels"),
    (edited(ignore=1), "has ignore, which detectron2 does not support"),
    (edited(segmentation="x"), "has the segmentation 'x'"),
    (edited(segmentation=[None]), "has a polygon that is not a list of numbers"),
    (edited(segmentation=[[1, 1, 5, 1, 5, 5, 3]]), "has a polygon with an odd number of coordinates"),
    (edited(segmentation=[[1, 1, 5, 1, 5, float("nan")]]), "has a polygon that is not a list of numbers"),
    (edited(segmentation=[[1, 1, 5, 1]]), "has a polygon of 2 points; at least three are required"),
    (edited(segmentation=[mask(HALF), mask(HALF)]), "has 2 run-length masks"),
    (
        edited(segmentation=[{"x": 5, "y": 5}, {"x": 9, "y": 5}, {"x": 9, "y": 9}]),
        "has a list of points {'x': 5, 'y': 5} as its segmentation; write each polygon as a list of numbers: [[x1, y1",
    ),
    (edited(segmentation=[{"points": []}] * 2), "has the segmentation [{'points': []}, {'points': []}]; use polygons"),
    (edited(segmentation=[[50, 1, 60, 1, 60, 9]]), "has a mask without pixels inside its image"),
    (edited(segmentation=[[1, -9, 5, -9, 5, 0]]), "has a mask without pixels inside its image"),
    (edited(segmentation={"size": [HEIGHT, WIDTH], "counts": [1200]}), "has a mask without pixels inside its image"),
    (edited(segmentation=mask(HALF * 0)), "has a mask without pixels inside its image"),
    (edited(segmentation={"size": [WIDTH, HEIGHT], "counts": "x"}), "of 30 x 40 pixels, but its image is 40 x 30"),
    (edited(segmentation={"size": None, "counts": "x"}), "has an RLE of size None"),
    (
        edited(segmentation={"size": [HEIGHT, WIDTH], "counts": [100, 50]}),
        "whose counts add up to 150 pixels instead of",
    ),
    (edited(segmentation={"size": [HEIGHT, WIDTH], "counts": [-1, 1201]}), "has an RLE without valid counts"),
    (edited(segmentation={"size": [HEIGHT, WIDTH]}), "has an RLE without valid counts"),
    (edited(segmentation={"size": [HEIGHT, WIDTH], "counts": "P"}), "has an RLE whose counts cannot be read"),
    (
        edited(segmentation={"size": [HEIGHT, WIDTH], "counts": "04"}),
        "whose counts add up to 4 pixels instead of 30 x 40",
    ),
    (changed("annotations", 2, keypoints=[0] * 48), "has 48 numbers as keypoints; expected x, y and visibility for ea"),
    (changed("annotations", 2, keypoints=[1, 1, 3] * 17), "whose visibility is not 0, 1 or 2"),
    (changed("images", 1, id=1), "the image id 1 occurs 2 times; ids must be unique"),
    (changed("images", 1, id=None), "image number 1 of the list has the id None"),
    (changed("images", 1, file_name="000001.jpg"), "images 1, 2 share the file 000001.jpg; keep only one of them"),
    (changed("images", 1, file_name="./000001.jpg"), "images 1, 2 share the file 000001.jpg; keep only one of them"),
    (changed("images", 1, file_name=5), "image 2 has the file_name 5"),
    (changed("images", 1, neg_category_ids=[]), "contains LVIS annotations"),
    (changed("categories", 1, id=1), "the category id 1 occurs 2 times; ids must be unique"),
    (changed("categories", 1, name="person"), "categories 1, 18 share the name person"),
    (changed("categories", 1, name=None), "category 18 has the name None"),
    (coco_content() | {"images": 5}, "lacks the list images: it has the keys images, categories, annotations"),
    ([], "lacks the lists images, annotations, categories: it is an empty list, not an object"),
]


@pytest.mark.parametrize(("content", "words"), ERRORS)
def test_read_coco__errors(content, words, tmp_path):
    coco = read(tmp_path, content)
    assert any(words in line for line in errors(coco)), errors(coco)
    assert all("\n" not in line and line.encode() for line in errors(coco))
    if isinstance(content, dict) and isinstance(content["images"], list):
        assert len(coco.annotations) + coco.refused == 3
    if "annotation 11" in words:
        assert [annotation["id"] for annotation in coco.annotations] == [12, 13]


POINTS = [SQUARE[at : at + 2] for at in range(0, 8, 2)]
RUNS = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}

REPAIRS = [  # content, words of the one finding, key of the first annotation, what it has then
    (edited(iscrowd=None), "has iscrowd None; read as 0", "iscrowd", 0),
    (edited(iscrowd="1"), "has iscrowd '1'; read as 1", "iscrowd", 1),
    (edited(iscrowd=True), "has iscrowd True; read as 1", "iscrowd", 1),
    (edited(area=None), "has no area; computed", "area", 133.0),  # of the triangle
    (edited(area=None, segmentation=[]), "has no area; computed", "area", 19 * 14),  # of the box
    (edited(area=None, segmentation=mask(HALF)), "has no area; computed", "area", HALF.sum()),
    (edited(area=None, segmentation=copy.deepcopy(RUNS)), "has no area; computed", "area", 50),
    (edited(segmentation=SQUARE), "has a polygon that is not in a list of polygons", "segmentation", [SQUARE]),
    (edited(segmentation=POINTS), "has polygons of points", "segmentation", [SQUARE]),
    (edited(segmentation=[POINTS, POINTS]), "has polygons of points", "segmentation", [SQUARE, SQUARE]),
    (edited(segmentation=[SQUARE, [1, 1, 5, 1]]), "with fewer than three points", "segmentation", [SQUARE]),
    (edited(segmentation=[SQUARE, []]), "or empty polygons", "segmentation", [SQUARE]),
    (edited(segmentation=[[]]), "or empty polygons", "segmentation", None),
    (edited(segmentation=[copy.deepcopy(RUNS)]), "has run lengths in a list; extracted", "segmentation", RUNS),
    (
        edited(segmentation=[mask(HALF)]),
        "has run lengths in a list; extracted from the list",
        "segmentation",
        mask(HALF),
    ),
    (edited(image_id="1"), "has image_id as text instead of a number", "image_id", 1),
    (edited(category_id="18"), "has category_id as text instead of a number", "category_id", 18),
    (edited(id=None), "annotation number 0 of the list (image 1) has no id", "id", "number 0 of the list"),
    (changed("categories", 1, name=7), "category 18 has a name that is a number", "id", 11),
    (changed("categories", 1, name=" dog\n"), "or has spaces around it", "id", 11),
    (changed("images", 0, width="40"), "image 1 has a width or height given as text", "id", 11),
]


@pytest.mark.parametrize(("content", "words", "key", "value"), REPAIRS)
def test_read_coco__repairs(content, words, key, value, tmp_path):
    coco = read(tmp_path, content)
    assert errors(coco) == []
    (line,) = [str(finding) for finding in coco.findings if finding.severity == "repaired"]
    assert words in line
    assert coco.annotations[0].get(key) == value
    assert coco.images[0]["width"] == WIDTH


@pytest.mark.parametrize("key", ["iscrowd", "segmentation", "keypoints", "num_keypoints"])
def test_read_coco__what_is_optional_may_be_absent(key, tmp_path):
    content = coco_content()
    for annotation in content["annotations"]:
        annotation.pop(key, None)
    coco = read(tmp_path, content)
    assert {finding.severity for finding in coco.findings} <= {"note"}
    assert [annotation["iscrowd"] for annotation in coco.annotations] == ([0, 0, 0] if key == "iscrowd" else [0, 1, 0])
    assert coco.annotations[2].get("num_keypoints") == (None if key == "keypoints" else 2)


NOTES = [
    (edited(bbox=[30, 2, 12, 4]), "has a box that extends beyond its image"),
    (edited(bbox=[-2, 2, 12, 4]), "has a box that extends beyond its image"),
    (edited(segmentation=[[1, 1, 5, 1, 5, 35]]), "has a mask that extends beyond its image"),
    (edited(segmentation=mask(HALF)), "has a run-length mask; usable only with INPUT.MASK_FORMAT bitmask"),
    (changed("annotations", 2, keypoints=[99, 1, 2] * 17), "has a keypoint outside its image"),
    (changed("annotations", 2, num_keypoints=5), "has a num_keypoints that differs from"),
    (edited(segmentation=[[1, 1, 5, 5, 9, 9], [3, 3] * 3]), "has a mask whose points lie on a line; mask training ign"),
    (edited(id=918, bbox=[1, 1, 1.03, 0.0]), "annotation 918 (image 1) has an empty box, as published"),
]


@pytest.mark.parametrize(("content", "words"), NOTES)
def test_read_coco__notes(content, words, tmp_path):
    coco = read(tmp_path, content)
    assert len(coco.annotations) == 3
    assert any(words in str(finding) for finding in coco.findings if finding.severity == "note")


FIGURE_OF_EIGHT = [1, 1, 9, 9, 9, 1, 1, 9]  # the two halves of its signed area cancel out


@pytest.mark.parametrize(
    "values",
    [
        {"segmentation": [[1, 1, 5, 5, 9, 9], SQUARE]},
        {"segmentation": [[50, 1, 60, 1, 60, 9], SQUARE]},
        {"segmentation": [FIGURE_OF_EIGHT]},
        {"segmentation": [[-9, -9, 60, -9, 60, 40, -9, 40]]},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [1200]}, "iscrowd": 1},
        {"segmentation": mask(HALF * 0), "iscrowd": 1},
        {  # as published
            "id": 918,
            "bbox": [26.65, 8.33, 1.03, 0.0],
            "segmentation": [[26.65, 8.33, 26.65, 8.33, 27.68, 8.33, 27.68, 8.33]],
        },
    ],
)
def test_read_coco__masks_that_may_stay(values, tmp_path):
    coco = read(tmp_path, edited(**values))
    assert errors(coco) == []
    assert len(coco.annotations) == 3


def outlined(boxes: list[list[float]], **values: object) -> dict:
    """Content with boxes x, y, width, height, each in an image of its own and with a polygon of the same shape."""
    corners = [(x, y, x + width, y + height) for x, y, width, height in boxes]
    return coco_content() | {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 80} for number in range(len(boxes))
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 400, **values}
            | {"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
            for number, (box, (x0, y0, x1, y1)) in enumerate(zip(boxes, corners, strict=True))
        ],
    }


TWO = [[10, 20, 20, 20], [30, 5, 20, 20]]
FRACTIONS = "instances.json: has boxes that seem to be fractions of the image's size; multiply x and width by"


def as_fractions(content: dict, *, but: int = 0) -> dict:
    for entry in content["annotations"][but:]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x / 100, y / 80, width / 100, height / 80]
    return content


def as_corners(content: dict, *, but: int = 0) -> dict:
    for entry in content["annotations"][but:]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    return content


def test_read_coco__boxes_in_fractions_of_the_image(tmp_path):
    (line,) = errors(read(tmp_path, as_fractions(outlined(TWO))))
    assert FRACTIONS in line
    content = as_fractions(outlined([[0, 0, 100, 80]]))
    del content["annotations"][0]["segmentation"], content["images"][0]["width"]
    assert FRACTIONS in errors(read(tmp_path, content))[0]  # whatever the size


def test_read_coco__boxes_of_a_pixel_are_no_fractions(tmp_path):
    assert errors(read(tmp_path, as_fractions(outlined(TWO), but=1))) == []
    assert errors(read(tmp_path, outlined(TWO) | {"annotations": []})) == []
    assert errors(read(tmp_path, as_fractions(outlined(TWO, iscrowd=1)))) == []
    content = outlined([[0, 0, 1, 1]])
    content["images"][0].update(width=1, height=1)
    assert errors(read(tmp_path, content)) == []


def test_read_coco__boxes_as_corners(tmp_path):
    (line,) = errors(read(tmp_path, as_corners(outlined(TWO))))
    assert line.endswith("instances.json: has boxes that seem to be x1, y1, x2, y2; write x, y, width, height")
    assert len(errors(read(tmp_path, as_corners(outlined(TWO * 2), but=2)))) == 1


def test_read_coco__boxes_that_are_no_corners(tmp_path):
    assert errors(read(tmp_path, as_corners(outlined(TWO * 2), but=3))) == []  # only one of four
    assert errors(read(tmp_path, as_corners(outlined(TWO[:1])))) == []  # may be a single wrong box
    at_origin = [[0, 0, 20, 20], [0, 0, 50, 60]]
    assert errors(read(tmp_path, as_corners(outlined(at_origin)))) == []
    assert errors(read(tmp_path, outlined([[10, 10, 30, 30], [5, 5, 60, 50]]))) == []


def test_read_coco__unused_supercategory_may_be_named_like_a_class(tmp_path):
    content = outlined(TWO)
    content["categories"] = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
    ]
    coco = read(tmp_path, content)
    assert errors(coco) == []
    for classes in ((), ("cat",)):
        chosen = choose_classes(coco, classes)
        assert [category["id"] for category in chosen.categories] == [1]
        assert [category["id"] for category in chosen.left_out] == [0]
        assert len(chosen.annotations) == 2
        assert str(chosen.findings[-1]).endswith("has no annotations; it is not a class")
    content["categories"].reverse()
    content["annotations"][0]["category_id"] = 0
    assert "share the name cat" in errors(read(tmp_path, content))[0]


def test_read_coco__a_finding_stands_for_many(tmp_path):
    content = coco_content()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = None
    (finding,) = [found for found in read(tmp_path, content).findings if found.severity == "repaired"]
    assert finding.count == 3
    assert str(finding).endswith("annotation 11 (image 1) (and 2 more) has iscrowd None; read as 0")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_read_coco__encodings(encoding, tmp_path):
    content = changed("categories", 0, name="Fußgänger")
    assert read(tmp_path, content, encoding) == read(tmp_path, content)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"  <!DOCTYPE html>", "HTML or XML document"),
        (b"PK\x03\x04", "zip archive"),
        (
            '{"a": "ä"}'.encode("latin-1"),
            "is not UTF-8, UTF-16 or UTF-32 text (invalid byte at position 7); save it as UTF-8",
        ),
        (b'{"images": [', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_read_coco__what_is_no_json(data, words, tmp_path):
    path = tmp_path / "instances.json"
    path.write_bytes(data)
    assert words in errors(read_coco(path))[0]


@pytest.mark.parametrize("side", [None, 0, -1, "?"])
def test_read_coco__sizes_from_the_images(side, tmp_path):
    content = changed("images", 0, width=side)
    assert "width" not in read(tmp_path, content).images[0]  # nobody asked for the image
    jpeg(tmp_path / "000001.jpg")
    coco = read(tmp_path, content, folder=tmp_path)
    assert (coco.images[0]["width"], coco.images[0]["height"]) == (WIDTH, HEIGHT)
    assert any("its size is read from the image file" in str(finding) for finding in coco.findings)
    (tmp_path / "000001.jpg").write_bytes(b"?")
    assert (
        "image 1 (000001.jpg) lacks a positive width and height" in errors(read(tmp_path, content, folder=tmp_path))[0]
    )


def test_read_coco__ids_as_text_are_in_the_order_of_their_numbers(tmp_path):
    content = coco_content()
    for kind, name in (("images", "image_id"), ("categories", "category_id")):
        for record in content[kind]:
            record["id"] = str(record["id"])
        for annotation in content["annotations"]:
            annotation[name] = str(annotation[name])
    content["categories"].append({"id": "9", "name": "cat"})
    content["images"].append({**content["images"][0], "id": "frame", "file_name": "x.jpg"})
    coco = read(tmp_path, content)
    assert errors(coco) == []
    assert [category["id"] for category in coco.categories] == ["1", "9", "18"]
    assert [image["id"] for image in coco.images] == ["1", "2", "3", "frame"]
    numbered = coco.numbered()
    assert [annotation["category_id"] for annotation in numbered["annotations"]] == [3, 3, 1]
    assert [annotation["image_id"] for annotation in numbered["annotations"]] == [1, 2, 1]


def test_read_coco__repeated_ids_in_minival_pass(tmp_path):
    path = tmp_path / "instances_minival2014.json"
    path.write_text(json.dumps(edited(id=13)))
    assert errors(read_coco(path)) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32)), max_size=5))
def test_measure_runs__equals_pycocotools(masks):
    made = [np.random.default_rng(seed).integers(0, 2, (height, width)) for height, width, seed in masks]
    large = [np.kron(values, np.ones((40, 40), int)) for values in made]  # runs of more than five bits
    texts = [mask(values)["counts"] for values in made + large]
    expected = [(values.size, values.sum()) for values in made + large]
    broken = ["", "P", "!", "1P", "PPPPPPPPPPPP0", "é", "\ud800", "0O"]
    assert list(measure_runs(texts + broken)) == expected + [(-1, -1)] * len(broken)
