import json
from pathlib import Path

import pytest

from mocodet.common.formats.inaturalist import read_classified


def layout() -> dict:
    """The content of a file: ids of classes with gaps, ids of images in no order."""
    return {
        "images": [{"id": image, "file_name": f"{image}.png"} for image in (40, 10, 20, 60, 50, 30)],
        "annotations": [
            {"id": 100 - image, "image_id": image, "category_id": category}
            for image, category in ((30, 70), (50, 3), (60, 4), (20, 8141), (10, 3), (40, 4))
        ],
        "categories": [
            {"id": 70, "name": "cat"},
            {"id": 8141, "name": "dog"},
            {"id": 3, "name": "ant"},
            {"id": 4, "name": "bee"},
        ],
    }


def write(folder: Path, content: object) -> Path:
    path = folder / "train2018.json"
    path.write_text(json.dumps(content))
    return path


def test_read_classified__order_of_the_file_and_contiguous_labels(tmp_path):
    found = read_classified(write(tmp_path, layout()))
    assert found.files == ["40.png", "10.png", "20.png", "60.png", "50.png", "30.png"]
    assert [found.classes[label] for label in found.labels] == ["bee", "ant", "dog", "bee", "ant", "cat"]
    assert found.classes == ["ant", "bee", "cat", "dog"]


@pytest.mark.parametrize("name", ["", "same", None], ids=["empty", "repeated", "missing"])
def test_read_classified__names_that_do_not_tell_classes_apart_give_way_to_ids(tmp_path, name):
    content = layout()
    for category in content["categories"]:
        if name is None:
            del category["name"]
        else:
            category["name"] = name
    assert read_classified(write(tmp_path, content)).classes == ["3", "4", "70", "8141"]


def no_annotation(content):
    del content["annotations"][:2]


def two_annotations(content):
    content["annotations"].append({"id": 1000, "image_id": 20, "category_id": 3})


def unknown_category(content):
    content["annotations"][0]["category_id"] = 5


def unknown_image(content):
    content["annotations"].append({"id": 1000, "image_id": 99, "category_id": 3})


def repeated_image(content):
    content["images"][1]["id"] = 40


def repeated_category(content):
    content["categories"][1]["id"] = 70


def no_category_id(content):
    del content["annotations"][2]["category_id"]


def no_annotations(content):
    del content["annotations"]


def list_for_an_id(content):
    content["images"][1]["id"] = [3]


def number_for_a_name(content):
    content["images"][0]["file_name"] = 3


def zero_in_a_name(content):
    content["images"][0]["file_name"] = "a\0b"


def no_images(content):
    content["images"], content["annotations"] = [], []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_annotation, r"2 images have no annotation \(ids: 50, 30\); expected one annotation per image"),
        (two_annotations, r"1 images have more than one annotation \(ids: 20\); expected one"),
        (unknown_category, r"1 annotations have a category that is not in 'categories' \(ids: 5\)"),
        (unknown_image, r"1 annotated images are not in 'images' \(ids: 99\)"),
        (repeated_image, r"image ids must be unique; repeated: 40"),
        (repeated_category, r"category ids must be unique; repeated: 70"),
        (no_category_id, r"entry 2 of 'annotations' must have image_id, category_id; found \{'id': "),
        (
            no_annotations,
            r"has no list 'annotations'; expected the iNaturalist layout with images, annotations, categories",
        ),
        (no_images, r"lists no image"),
        (list_for_an_id, r"entry 1 of 'images' has id \[3\]; expected an integer or a string"),
        (number_for_a_name, r"entry 0 of 'images' has file_name 3; expected a file name"),
        (zero_in_a_name, r"entry 0 of 'images' has file_name 'a\\x00b'; expected a file name"),
    ],
)
def test_read_classified__faults_of_the_file_are_named(tmp_path, change, message):
    content = layout()
    change(content)
    with pytest.raises(ValueError, match=rf"train2018\.json.*{message}"):
        read_classified(write(tmp_path, content))


def test_read_classified__not_json(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        read_classified(path)
