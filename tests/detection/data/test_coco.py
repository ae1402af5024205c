import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from PIL import Image

from mocodet.common.formats.hold_out import HoldOut
from mocodet.detection.data.coco import load_coco
from tests.detection.tiny import SIZE, make_coco, new_name


@pytest.fixture
def entry(tmp_path: Path) -> dict:
    return make_coco(tmp_path)


def load(entry: dict, classes: tuple[str, ...] = ()) -> list[dict]:
    return load_coco(entry["NAME"], entry["JSON"], entry["IMAGES"], classes)


def edit(entry: dict, **changes: object) -> None:
    path = Path(entry["JSON"])
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load_coco__equals_detectron2(entry):
    content = json.loads(Path(entry["JSON"]).read_text())
    content["annotations"][1].update(iscrowd=1, segmentation={"size": [SIZE, SIZE], "counts": [9, SIZE**2 - 9]})
    content["annotations"][2].update(keypoints=[10, 10, 2] * 3)
    content["categories"][0].update(keypoints=EYES)
    content["images"].reverse()
    edit(entry, **content)
    expected = load_coco_json(entry["JSON"], entry["IMAGES"], theirs := new_name())
    assert load(entry) == expected
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert MetadataCatalog.get(entry["NAME"]).get(key) == MetadataCatalog.get(theirs).get(key)


def test_load_coco__classes_choose_and_order(entry, caplog):
    everything = load(entry)
    chosen = entry | {"NAME": new_name()}
    with caplog.at_level("INFO"):
        records = load(chosen, ("dog",))
    metadata = MetadataCatalog.get(chosen["NAME"])
    assert (metadata.thing_classes, metadata.thing_dataset_id_to_contiguous_id) == (["dog"], {5: 0})
    for record, known in zip(records, everything, strict=True):  # images without a dog stay, as negatives
        assert len(record["annotations"]) == sum(found["category_id"] == 1 for found in known["annotations"])
    assert "has 1 categories, with 2 annotations, that are not in CLASSES; they are ignored: cat (2)" in caplog.text
    turned = load(entry | {"NAME": new_name()}, ("dog", "cat"))
    for record, known in zip(turned, everything, strict=True):
        assert [1 - o["category_id"] for o in record["annotations"]] == [o["category_id"] for o in known["annotations"]]


def test_load_coco__holds_images_out_by_their_file_names(tmp_path):
    entry = make_coco(tmp_path, count=12)
    content = json.loads(Path(entry["JSON"]).read_text())
    held = {image["id"] for image in content["images"] if share_of(image["file_name"]) < 0.4}
    parent = {"id": 9, "name": "animal", "supercategory": "none"}  # used only by an image of the training split
    content["categories"] = [{**one, "supercategory": "animal"} for one in content["categories"]] + [parent]
    next(one for one in content["annotations"] if one["image_id"] not in held)["category_id"] = 9
    edit(entry, **content)
    everything = load(entry)
    names, metadata = {}, {}
    for split in ("train", "test"):
        part = load_coco(name := new_name(), entry["JSON"], entry["IMAGES"], (), split, HoldOut(0.4))
        assert part == [record for record in everything if (record["image_id"] in held) == (split == "test")]
        names[split], metadata[split] = [Path(record["file_name"]).name for record in part], MetadataCatalog.get(name)
    assert metadata["test"].thing_classes == metadata["train"].thing_classes == ["cat", "dog", "animal"]
    content["images"].reverse()
    for number, image in enumerate(content["images"]):  # the same images with other ids, and fewer of them
        image["id"] = number
    edit(entry, images=content["images"][2:], annotations=[], categories=content["categories"])
    again = load_coco(new_name(), entry["JSON"], entry["IMAGES"], (), "test", HoldOut(0.4))
    assert {Path(record["file_name"]).name for record in again} == set(names["test"]) - {"10.jpg", "11.jpg"}
    with pytest.raises(ValueError, match=r"has 10 images, but HOLD_OUT 1e-06 selects none of them for test; change"):
        load_coco(new_name(), entry["JSON"], entry["IMAGES"], (), "test", HoldOut(1e-6))
    with pytest.raises(ValueError, match="SPLIT test has no effect without HOLD_OUT; set HOLD_OUT or remove SPLIT"):
        load_coco(new_name(), entry["JSON"], entry["IMAGES"], (), "test")


def share_of(name: str, seed: int = 0) -> float:
    """Return the number between 0 and 1 that decides whether an image is held out, as documented."""
    return int(sha256(f"{seed}/{name}".encode()).hexdigest()[:16], 16) / 2**64


def test_load_coco__class_that_there_is_not(entry):
    with pytest.raises(ValueError, match=r"CLASSES contains dogs, but the categories are cat, dog; did you mean dog\?"):
        load(entry, ("cat", "dogs"))


def test_load_coco__roboflows_parent_is_no_class(entry, caplog):
    content = json.loads(Path(entry["JSON"]).read_text())
    children = [{**category, "supercategory": "pets"} for category in content["categories"]]
    edit(entry, categories=[{"id": 0, "name": "pets", "supercategory": "none"}, *children])
    with caplog.at_level("INFO"):
        load(entry)
    assert MetadataCatalog.get(entry["NAME"]).thing_dataset_id_to_contiguous_id == {3: 0, 5: 1}
    assert "category 0 (pets) is the supercategory of all others and has no annotations" in caplog.text
    named = new_name()
    load(entry | {"NAME": named}, ("pets", "cat"))
    assert MetadataCatalog.get(named).thing_dataset_id_to_contiguous_id == {0: 0, 3: 1}


def test_load_coco__image_of_another_size(entry):
    Image.new("RGB", (9, 7)).save(Path(entry["IMAGES"], "1.jpg"))
    Path(entry["IMAGES"], "2.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"2 errors, .*1\.jpg: is 9 x 7, but .* {SIZE} x {SIZE}.*2\.jpg cannot be read"
    ):
        load(entry)


@pytest.mark.parametrize("missing", ["JSON", "IMAGES"])
def test_load_coco__missing(entry, missing):
    with pytest.raises(FileNotFoundError, match=f"data set {entry['NAME']}: the .*nowhere.* does not exist"):
        load(entry | {missing: "nowhere"})


def test_load_coco__missing_image(entry):
    (Path(entry["IMAGES"]) / "2.jpg").unlink()
    message = r"1 of the 4 images .* the first is .*2\.jpg; restore the images, or set IMAGES to their folder$"
    with pytest.raises(FileNotFoundError, match=message):
        load(entry)


def test_load_coco__missing_image_with_a_similar_name(entry):
    images = json.loads(Path(entry["JSON"]).read_text())["images"]
    images[0]["file_name"] = "C:\\data\n\\0.JPG"
    edit(entry, images=images)
    there = re.escape(f"there is {Path(entry['IMAGES'], '0.jpg')}: correct file_name in the JSON file, or IMAGES")
    with pytest.raises(FileNotFoundError, match=rf"1 of the 4 .*data\\n\\0\.JPG; {there}$"):
        load(entry)


def test_load_coco__no_image(entry):
    edit(entry, images=[], annotations=[])
    with pytest.raises(ValueError, match="lists no images, so the data set is empty"):
        load(entry)


def test_load_coco__unknown_category(entry):
    edit(entry, categories=[{"id": 3, "name": "cat"}])
    with pytest.raises(ValueError, match=r"annotation 2 \(image 1\) refers to category 5, which is not in the file"):
        load(entry)


def test_load_coco__not_json(entry):
    Path(entry["JSON"]).write_text("{")
    with pytest.raises(ValueError, match=r"instances\.json: is not JSON .*truncated"):
        load(entry)


EYES = ["nose", "left_eye", "right_eye"]


def add_keypoints(entry: dict, names: object = EYES, numbers: int = 9, of: tuple[str, ...] = ("cat",)) -> None:
    content = json.loads(Path(entry["JSON"]).read_text())
    for category in content["categories"]:
        if category["name"] in of:
            category["keypoints"] = names
    for annotation in content["annotations"]:
        if annotation["category_id"] == 3:
            annotation["keypoints"] = [10, 10, 2] * (numbers // 3)
    edit(entry, **content)


def test_load_coco__keypoints(entry):
    add_keypoints(entry)
    records = load(entry)
    metadata = MetadataCatalog.get(entry["NAME"])
    assert metadata.keypoint_names == EYES
    assert metadata.keypoint_flip_map == [("left_eye", "right_eye")]
    # When detectron2 mirrors an image, the nose stays and the eyes change places.
    assert create_keypoint_hflip_indices([entry["NAME"]]) == [0, 2, 1]
    assert records[0]["annotations"][0]["keypoints"] == [10.5, 10.5, 2] * 3  # the middle of the pixel
    assert load(entry)  # a second time


def test_load_coco__without_keypoints_there_are_no_names(entry):
    load(entry)
    assert MetadataCatalog.get(entry["NAME"]).get("keypoint_names") is None


def test_load_coco__another_number_of_keypoints(entry):
    add_keypoints(entry, numbers=6)
    with pytest.raises(ValueError, match=r"1 \(image 0\) has 6 numbers as keypoints; expected .* for each of the 3"):
        load(entry)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "has objects with keypoints, but no category lists the keypoint names"),
        (["nose", "nose", "tail"], r"list the names of the keypoints"),
        ("nose", "list the names of the keypoints"),
        ([1, 2, 3], "list the names of the keypoints"),
        (["nose", "left_eye", "left_ear"], r"\(cat\) has the keypoints left_eye, left_ear without a left_"),
    ],
)
def test_load_coco__names_of_keypoints_that_cannot_be_learned(entry, names, message):
    add_keypoints(entry, names=names)
    assert load(entry)  # boxes can
    metadata = MetadataCatalog.get(entry["NAME"])
    assert metadata.get("keypoint_names") is None
    assert re.search(message, metadata.keypoint_fault)


def test_load_coco__categories_with_different_keypoints(entry):
    add_keypoints(entry)
    content = json.loads(Path(entry["JSON"]).read_text())
    content["categories"][1]["keypoints"] = ["snout", "left_eye", "right_eye"]
    edit(entry, **content)
    load(entry)
    assert "(cat) has different keypoints from dog" in MetadataCatalog.get(entry["NAME"]).keypoint_fault


def test_load_coco__annotations_of_lvis(entry):
    images = json.loads(Path(entry["JSON"]).read_text())["images"]
    edit(entry, images=[image | {"neg_category_ids": []} for image in images])
    with pytest.raises(ValueError, match=r"instances\.json: contains LVIS annotations .*lvis_v0\.5_val"):
        load(entry)
