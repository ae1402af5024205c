from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from mocodet.common.checks import coco, coco_json
from mocodet.common.checks.findings import Fault, Tally
from tests.commands import prepare_data
from tests.common.checks.good import (
    HEIGHT,
    NAMES,
    WIDTH,
    coco_content,
    jpeg,
    make_coco,
    write_json,
)

JSON = "instances.json"


def faults_of(folder: Path) -> list[Fault]:
    return list(coco_json.check_json(folder / JSON, folder / "images", Tally()))


def edited(edit):
    def spoil(folder: Path) -> None:
        content = coco_content()
        edit(content)
        write_json(folder / JSON, content)

    return spoil


def image(**values: object):
    return edited(lambda content: content["images"][2].update(values))


def annotation(number: int = 0, **values: object):
    return edited(lambda content: content["annotations"][number].update(values))


def without(kind: str, key: str):
    return edited(lambda content: content[kind][0].pop(key))


def rle(**values: object):
    return annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH], **values})


def keypoints(index: int, value: float):
    return edited(lambda content: content["annotations"][2]["keypoints"].__setitem__(index, value))


FAULTS = {  # what is done: (how, the file that must be named, words that must say what)
    "no JSON": (lambda folder: (folder / JSON).write_text("{"), JSON, "is not JSON"),
    "a list": (lambda folder: write_json(folder / JSON, []), JSON, "lacks the list images, annotations, categories"),
    "no annotations": (edited(lambda c: c.pop("annotations")), JSON, "lacks the list annotations"),
    "no images named": (edited(lambda c: c.update(images=[], annotations=[])), JSON, "names no image"),
    "image gone": (lambda f: (f / "images/000003.jpg").unlink(), "images/000003.jpg", "image 3 of"),
    "images gone": (lambda f: (f / "images").rename(f / "elsewhere"), "images", "names images in it"),
    "image truncated": (
        lambda f: (f / "images/000002.jpg").write_bytes((f / "images/000002.jpg").read_bytes()[:-200]),
        "images/000002.jpg",
        "cannot be decoded",
    ),
    "another image": (
        lambda f: jpeg(f / "images/000002.jpg", (30, 40)),
        "images/000002.jpg",
        "is 30 x 40, but instances.json says 40 x 30",
    ),
    "image id twice": (image(id=1), JSON, "the image id 1 occurs 2 times"),
    "file twice": (image(file_name="000001.jpg"), JSON, "images 1, 3 share the file 000001.jpg"),
    "image without a size": (image(width=None), JSON, "image 3 (000003.jpg) lacks a width and a height"),
    "image without a file name": (
        edited(lambda c: c["images"][2].pop("file_name")),
        JSON,
        "image number 2 of the list lacks file_name",
    ),
    "annotation id twice": (annotation(2, id=11), JSON, "the annotation id 11 occurs 2 times"),
    "annotation without a category": (without("annotations", "category_id"), JSON, "lacks category_id"),
    "unknown image": (annotation(image_id=7), JSON, "annotation 11 (image 7) is of an image that is not in the file"),
    "unknown category": (annotation(category_id=2), JSON, "annotation 11 (image 1) is of category 2"),
    "category id twice": (
        edited(lambda c: c["categories"].append({"id": 18, "name": "x"})),
        JSON,
        "the category id 18 occurs 2 times",
    ),
    "category name twice": (
        edited(lambda c: c["categories"].append({"id": 19, "name": "dog"})),
        JSON,
        "two categories are called 'dog'",
    ),
    "bbox of three": (annotation(bbox=[1, 2, 3]), JSON, "has the bbox [1, 2, 3]; it must be four numbers"),
    "bbox of text": (annotation(bbox=[1, 2, 3, "4"]), JSON, "it must be four numbers"),
    "bbox of nan": (annotation(bbox=[1, 2, 3, float("nan")]), JSON, "it must be four numbers"),
    "file name of a number": (image(file_name=5), JSON, "image number 2 of the list lacks a usable file_name"),
    "huge bbox": (annotation(bbox=[0, 0, 10**400, 1]), JSON, "it must be four numbers"),
    "huge area": (annotation(area=10**400), JSON, "COCO's AP needs it"),
    "no iscrowd": (without("annotations", "iscrowd"), JSON, "has iscrowd None; it must be 0 or 1"),
    "keypoints of a category": (
        edited(lambda c: c["categories"][0].update(keypoints=17)),
        JSON,
        "category 1 (person) has the keypoints 17; it must be the list of their names",
    ),
    "deep JSON": (lambda f: (f / JSON).write_text("[" * 100_000), JSON, "is not JSON"),
    "empty bbox": (annotation(bbox=[1, 2, 0, 4]), JSON, "annotation 11 (image 1): the bbox [1, 2, 0, 4] is empty"),
    "bbox inside out": (annotation(bbox=[9, 9, -3, 4]), JSON, "is inside out"),
    "bbox outside": (annotation(bbox=[30, 2, 12, 4]), JSON, "is not inside the image, which is 40 x 30"),
    "iscrowd": (annotation(iscrowd=2), JSON, "has iscrowd 2; it must be 0 or 1"),
    "no area": (without("annotations", "area"), JSON, "has the area None"),
    "no polygon": (annotation(segmentation=[]), JSON, "has a segmentation without a polygon"),
    "odd polygon": (annotation(segmentation=[[1, 1, 5, 1, 5, 5, 3]]), JSON, "an even number of numbers"),
    "two points": (annotation(segmentation=[[1, 1, 5, 1]]), JSON, "has a polygon of 2 points"),
    "polygon outside": (annotation(segmentation=[[1, 1, 5, 1, 5, 35]]), JSON, "has a polygon that is not inside"),
    "RLE of another size": (rle(size=[WIDTH, HEIGHT]), JSON, "has an RLE of 30 x 40 pixels, but its image is 40 x 30"),
    "RLE without a size": (rle(size=None), JSON, "has an RLE of size None"),
    "short RLE": (rle(counts=[100, 50]), JSON, "has an RLE whose counts make 150 pixels"),
    "RLE without counts": (rle(counts=None), JSON, "has an RLE without counts"),
    "48 keypoint numbers": (annotation(2, keypoints=[0] * 48), JSON, "must have 51 numbers as keypoints"),
    "visibility": (keypoints(2, 3), JSON, "whose visibility is not 0, 1 or 2"),
    "num_keypoints": (annotation(2, num_keypoints=5), JSON, "has num_keypoints 5, but 2 keypoints"),
    "keypoint outside": (keypoints(0, 99), JSON, "has a keypoint that is not inside the image"),
}


def test_check_json__good(tmp_path):
    tally = Tally()
    folder = make_coco(tmp_path)
    assert list(coco_json.check_json(folder / JSON, folder / "images", tally)) == []
    assert tally.counts == {"images": 3, "annotations": 3, "annotations with keypoints": 1}
    assert tally.notes == []
    # pycocotools takes the good file too: it is not the check alone that calls it good.
    api = COCO(folder / JSON)
    assert mask_utils.area(api.annToRLE(api.anns[12])) == 50


@pytest.mark.parametrize("fault", FAULTS)
def test_check_json__one_fault(fault, tmp_path):
    spoil, file, words = FAULTS[fault]
    folder = make_coco(tmp_path)
    spoil(folder)
    (found,) = faults_of(folder)
    assert found.file == folder / file
    assert words in found.what
    assert "\n" not in str(found)


def test_check_json__several_faults_are_all_reported(tmp_path):
    folder = make_coco(tmp_path)
    FAULTS["image truncated"][0](folder)
    FAULTS["another image"][0](folder)  # of the same file: it is whole again
    FAULTS["image gone"][0](folder)

    def edit(content: dict) -> None:
        first, second, third = content["annotations"]
        first.update(bbox=[1, 2, 0, 4], iscrowd=2, segmentation=[[1, 1, 5, 1]])
        second.update(category_id=2)
        third.update(image_id=7)

    edited(edit)(folder)
    found = faults_of(folder)
    several = ("another image", "image gone", "empty bbox", "iscrowd", "two points", "unknown category")
    for fault in several:
        _, file, words = FAULTS[fault]
        words = words.replace("annotation 11 (image 1) is", "annotation 12 (image 2) is")
        assert any(one.file == folder / file and words in one.what for one in found), fault
    assert any("annotation 13 (image 7)" in one.what for one in found)
    assert len(found) == len(several) + 1


def test_check_json__compressed_masks_and_what_pycocotools_rounds_pass(tmp_path):
    folder = make_coco(tmp_path)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[3:9, 3:20] = 1
    encoded = mask_utils.encode(mask)
    rle(counts=encoded["counts"].decode())(folder)
    assert faults_of(folder) == []
    annotation(bbox=[-0.5, 0, WIDTH + 1, HEIGHT])(folder)
    assert faults_of(folder) == []


def test_check_json__other_files_in_the_folder_are_a_note(tmp_path):
    folder = make_coco(tmp_path)
    jpeg(folder / "images/4.jpg")
    tally = Tally()
    assert list(coco_json.check_json(folder / JSON, folder / "images", tally)) == []
    assert tally.notes == [f"{folder / 'images'}: 1 files are not in {JSON}"]


def make_coco2017(root: Path) -> None:
    for split in ("train2017", "val2017"):
        for name in NAMES:
            jpeg(root / "coco" / split / f"{name}.jpg")
        for kind in ("instances", "person_keypoints"):
            write_json(root / "coco/annotations" / f"{kind}_{split}.json", coco_content())


def test_check__counts_and_each_image_once(tmp_path):
    make_coco2017(tmp_path)
    tally = Tally()
    assert list(coco.check(tmp_path, tally, any_size=True)) == []
    assert tally.counts["images"] == 6
    found = [str(fault) for fault in coco.check(tmp_path, Tally())]
    assert len(found) == 8  # images and categories, of four files
    assert "3 images, the published data set has 118,287" in found[0]
    (tmp_path / "coco/val2017/000001.jpg").unlink()
    (found,) = coco.check(tmp_path, Tally(), any_size=True)
    assert found.file == tmp_path / "coco/val2017/000001.jpg"
    (tmp_path / "coco/annotations/instances_val2017.json").unlink()
    assert len(list(coco.check(tmp_path, Tally(), any_size=True))) == 2


def test_check__empty_boxes_that_are_published_so_are_notes(tmp_path):
    make_coco2017(tmp_path)
    path = tmp_path / "coco/annotations/instances_train2017.json"
    content = coco_content()
    content["annotations"][0].update(id=918, bbox=[1, 1, 1.03, 0.0])
    write_json(path, content)
    tally = Tally()
    assert list(coco.check(tmp_path, tally, any_size=True)) == []
    assert tally.notes == [f"{path}: annotation 918 (image 1) has an empty box, as published; detectron2 drops it"]
    content["annotations"][0]["bbox"] = [9, 9, -3, 4]  # not as published
    content["annotations"][1]["bbox"] = [1, 1, 1, 0]
    write_json(path, content)
    first, second = (fault.what for fault in coco.check(tmp_path, Tally(), any_size=True))
    assert "annotation 918 (image 1): the bbox [9, 9, -3, 4] is inside out" in first
    assert "annotation 12 (image 2): the bbox [1, 1, 1, 0] is empty; correct or remove it" in second


def test_check_json__names_that_no_terminal_shows(tmp_path):
    folder = make_coco(tmp_path)
    image(file_name="a\n\ud800\0.jpg")(folder)
    (found,) = faults_of(folder)
    assert r"a\n\ud800\x00.jpg: is missing" in str(found)
    str(found).encode()


def test_cli__own_file(tmp_path, capsys):
    folder = make_coco(tmp_path)
    command = ["coco", "--check", "--json", str(folder / JSON), "--images", str(folder / "images"), "--workers", "0"]
    with pytest.raises(SystemExit) as ended:
        prepare_data(command)
    assert ended.value.code == 0
    assert "coco: no fault; looked at 3 images, 3 annotations" in capsys.readouterr().out
