import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder

from mocodet.pretrain.data.inaturalist import read_inaturalist

# Class -> id; the ids have gaps, and their order is the alphabetical order of the classes, as in class folders.
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
    """The content of the JSON file: ids of images without order, annotations and categories in a different order."""
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


def test_read_inaturalist__missing_files_are_named(root):
    path = write(root, layout())
    (root / "bee" / "0.png").unlink()
    (root / "cat" / "5.png").unlink()
    (root / "cat").rmdir()
    with pytest.raises(
        FileNotFoundError, match=r"2 of 6 images listed in \S*json are not in \S*: bee/0\.png, cat/5\.png; expected"
    ):
        read_inaturalist(root, path)
    content = layout()
    content["images"][0]["file_name"] = f"{'9' * 5000}/0.png"  # too long for any file system
    with pytest.raises(FileNotFoundError, match=r"3 of 6 images listed in \S*json are not in"):
        read_inaturalist(root, write(root, content))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_inaturalist(root / "nowhere", path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        read_inaturalist(root, root / "nothing.json")
