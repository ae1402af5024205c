import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder

from mocodet.pretrain.data.inaturalist import read_inaturalist

# Class -> id; the ids have gaps, and in their order the classes are in the order of the alphabet, as in class folders.
CATEGORIES = {"ant": 3, "bee": 4, "cat": 70, "dog": 8141}
IMAGES = [("bee", "1.png"), ("ant", "7.png"), ("dog", "2.png"), ("bee", "0.png"), ("ant", "1.png"), ("cat", "5.png")]


@pytest.fixture
def root(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    for category, name in IMAGES:
        path = tmp_path / "images" / category / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def layout() -> dict:
    """The content of the JSON file: ids of images in no order, annotations and categories in another."""
    ids = [40, 10, 20, 60, 50, 30]
    return {
        "info": {"year": 2018},
        "images": [
            {"id": image, "file_name": f"{category}/{name}", "width": 6, "height": 5}
            for image, (category, name) in zip(ids, IMAGES, strict=True)
        ],
        "annotations": [
            {"id": 100 - image, "image_id": image, "category_id": CATEGORIES[category]}
            for image, (category, _) in reversed(list(zip(ids, IMAGES, strict=True)))
        ],
        "categories": [{"id": CATEGORIES[name], "name": name} for name in ("cat", "dog", "ant", "bee")],
    }


def write(root: Path, content: object) -> Path:
    path = root.parent / "train2018.json"
    path.write_text(json.dumps(content))
    return path


def test_read_inaturalist__order_of_the_file_and_contiguous_labels(root):
    found = read_inaturalist(root, write(root, layout()))
    assert found.classes == ["ant", "bee", "cat", "dog"]
    assert found.labels.dtype == torch.int64
    assert [found.classes[label] for label in found.labels] == [category for category, _ in IMAGES]
    assert len(found.images) == len(IMAGES)
    for image, (category, name) in zip(found.images, IMAGES, strict=True):
        assert np.array_equal(image, Image.open(root / category / name)), name


def test_read_inaturalist__equals_class_folders_of_the_same_images(root):
    found = read_inaturalist(root, write(root, layout()))
    folders = TorchvisionFolder(str(root))
    assert found.classes == folders.classes
    assert sorted(zip(found.images.paths, found.labels.tolist(), strict=True)) == sorted(folders.samples)


def test_read_inaturalist__a_class_without_an_image_is_a_class(root):
    content = layout()
    content["categories"].append({"id": 5, "name": "bug"})
    found = read_inaturalist(root, write(root, content))
    assert found.classes == ["ant", "bee", "bug", "cat", "dog"]
    assert [found.classes[label] for label in found.labels] == [category for category, _ in IMAGES]


@pytest.mark.parametrize("name", ["", "same", None], ids=["empty", "repeated", "missing"])
def test_read_inaturalist__names_that_do_not_tell_classes_apart_give_way_to_ids(root, name):
    content = layout()
    for category in content["categories"]:
        if name is None:
            del category["name"]
        else:
            category["name"] = name
    assert read_inaturalist(root, write(root, content)).classes == ["3", "4", "70", "8141"]


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
        (no_annotation, r"2 images have no annotation: id 50, 30; expected one annotation for each image"),
        (two_annotations, r"1 images have several annotations: id 20; expected one"),
        (unknown_category, r"1 annotations have a category that is not in 'categories': id 5"),
        (unknown_image, r"1 annotated images are not in 'images': id 99"),
        (repeated_image, r"image ids must differ; repeated: 40"),
        (repeated_category, r"category ids must differ; repeated: 70"),
        (no_category_id, r"entry 2 of 'annotations' has not all of image_id, category_id: \{'id': "),
        (no_annotations, r"has no list 'annotations'; expected iNaturalist's layout: images, annotations, categories"),
        (no_images, r"lists no image"),
        (list_for_an_id, r"entry 1 of 'images' has id \[3\]; expected a whole number or a word"),
        (number_for_a_name, r"entry 0 of 'images' has file_name 3; expected the name of a file"),
        (zero_in_a_name, r"entry 0 of 'images' has file_name 'a\\x00b'; expected the name of a file"),
    ],
)
def test_read_inaturalist__faults_of_the_file_are_named(root, change, message):
    content = copy.deepcopy(layout())
    change(content)
    with pytest.raises(ValueError, match=rf"train2018\.json.*{message}"):
        read_inaturalist(root, write(root, content))


def test_read_inaturalist__not_json(root):
    path = root.parent / "broken.json"
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        read_inaturalist(root, path)


def test_read_inaturalist__missing_files_are_named(root):
    path = write(root, layout())
    (root / "bee" / "0.png").unlink()
    (root / "cat" / "5.png").unlink()
    (root / "cat").rmdir()
    with pytest.raises(
        FileNotFoundError, match=r"2 of 6 images of \S*json are not in \S*: bee/0\.png, cat/5\.png; give"
    ):
        read_inaturalist(root, path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_inaturalist(root / "nowhere", path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        read_inaturalist(root, root / "nothing.json")
