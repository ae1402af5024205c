import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices

from mocodet.detection.data.coco import load_coco
from tests.detection.tiny import CLASSES, make_coco


@pytest.fixture
def entry(tmp_path: Path) -> dict:
    return make_coco(tmp_path)


def load(entry: dict, classes: tuple[str, ...] = ()) -> list[dict]:
    return load_coco(entry["NAME"], entry["JSON"], entry["IMAGES"], classes)


def edit(entry: dict, **changes: object) -> None:
    path = Path(entry["JSON"])
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load_coco__classes_that_agree(entry):
    assert len(load(entry, CLASSES)) == 4


def test_load_coco__classes_that_do_not(entry):
    with pytest.raises(ValueError, match=r"CLASSES is dog, cat, but the categories .* are cat, dog"):
        load(entry, ("dog", "cat"))


@pytest.mark.parametrize("missing", ["JSON", "IMAGES"])
def test_load_coco__missing(entry, missing):
    with pytest.raises(FileNotFoundError, match=f"data set {entry['NAME']}: there is no .*nowhere"):
        load(entry | {missing: "nowhere"})


def test_load_coco__missing_image(entry):
    (Path(entry["IMAGES"]) / "2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 4 images .* the first is .*2\.jpg"):
        load(entry)


def test_load_coco__no_image(entry):
    edit(entry, images=[], annotations=[])
    with pytest.raises(ValueError, match="names no image: the data set is empty"):
        load(entry)


def test_load_coco__unknown_category(entry):
    edit(entry, categories=[{"id": 3, "name": "cat"}])
    with pytest.raises(ValueError, match=r"is not a COCO JSON of instances.*category_id=5"):
        load(entry)


def test_load_coco__not_json(entry):
    Path(entry["JSON"]).write_text("{")
    with pytest.raises(ValueError, match="is not a COCO JSON"):
        load(entry)


EYES = ["nose", "left_eye", "right_eye"]


def add_keypoints(entry: dict, names: object = EYES, numbers: int = 9, of: tuple[str, ...] = ("cat",)) -> None:
    content = json.loads(Path(entry["JSON"]).read_text())
    for category in content["categories"]:
        if category["name"] in of:
            category["keypoints"] = names
    for annotation in content["annotations"]:
        if annotation["category_id"] == 3:
            annotation["keypoints"] = [10] * numbers
    edit(entry, **content)


def test_load_coco__keypoints(entry):
    add_keypoints(entry)
    records = load(entry)
    metadata = MetadataCatalog.get(entry["NAME"])
    assert metadata.keypoint_names == EYES
    assert metadata.keypoint_flip_map == [("left_eye", "right_eye")]
    # What a mirrored image does with them, by detectron2: nose stays, the eyes change places.
    assert create_keypoint_hflip_indices([entry["NAME"]]) == [0, 2, 1]
    assert records[0]["annotations"][0]["keypoints"] == [10.5, 10.5, 10] * 3  # the middle of the pixel
    assert load(entry)  # a second time


def test_load_coco__without_keypoints_there_are_no_names(entry):
    load(entry)
    assert MetadataCatalog.get(entry["NAME"]).get("keypoint_names") is None


def test_load_coco__keypoints_without_names(entry):
    add_keypoints(entry, of=())
    with pytest.raises(ValueError, match="have keypoints, but no category names them"):
        load(entry)


def test_load_coco__another_number_of_keypoints(entry):
    add_keypoints(entry, numbers=6)
    with pytest.raises(
        ValueError, match=r"0\.jpg has 6 numbers as keypoints; expected x, y and visibility of each of 3"
    ):
        load(entry)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nose", "nose"], "list of different names"),
        ("nose", "list of different names"),
        ([1, 2, 3], "list of different names"),
        (["nose", "left_eye", "left_ear"], "left_eye, left_ear of cat have no counterpart"),
    ],
)
def test_load_coco__names_of_keypoints(entry, names, message):
    add_keypoints(entry, names=names)
    with pytest.raises(ValueError, match=message):
        load(entry)


def test_load_coco__categories_with_different_keypoints(entry):
    add_keypoints(entry)
    content = json.loads(Path(entry["JSON"]).read_text())
    content["categories"][1]["keypoints"] = ["snout", "left_eye", "right_eye"]
    edit(entry, **content)
    with pytest.raises(ValueError, match="categories cat and dog have different keypoints"):
        load(entry)


def test_load_coco__annotations_of_lvis(entry):
    images = json.loads(Path(entry["JSON"]).read_text())["images"]
    edit(entry, images=[image | {"neg_category_ids": []} for image in images])
    with pytest.raises(ValueError, match=r"instances\.json holds annotations of LVIS .*lvis_v0\.5_val"):
        load(entry)
