import hashlib
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.pascal_voc import load_voc_instances
from PIL import Image
from pycocotools.coco import COCO

from mocodet.detection.data import toy
from mocodet.detection.data.toy import OUTLINES, TEXTURES, TOY_CLASSES, make_toy_data, mask_to_polygons

SMALL = {"train": 10, "test": 9, "unlabelled": 5, "size": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "data"
    summary = make_toy_data(root, seed=3, **SMALL)
    assert summary["train_images"] == 10
    assert summary["test_images"] == 9
    assert summary["unlabelled_images"] == 5
    return root


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_make_toy_data__same_seed_same_bytes(data, tmp_path):
    make_toy_data(tmp_path / "again", seed=3, **SMALL)
    assert digests(tmp_path / "again") == digests(data)


def test_make_toy_data__independent_of_workers(data, tmp_path):
    make_toy_data(tmp_path / "again", seed=3, workers=2, **SMALL)
    assert digests(tmp_path / "again") == digests(data)


def test_make_toy_data__other_seed_other_images(data, tmp_path):
    make_toy_data(tmp_path / "other", seed=4, **SMALL)
    mine, other = digests(data), digests(tmp_path / "other")
    images = [name for name in mine if name.endswith(".jpg")]
    assert len(images) == 2 * 10 + 2 * 9 + 5
    assert all(mine[name] != other[name] for name in images)


def test_make_toy_data__no_image_occurs_twice(data):
    images = [path for folder in ("coco/train", "coco/test", "unlabelled") for path in (data / folder).iterdir()]
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in images}) == 10 + 9 + 5


@pytest.mark.parametrize(("split", "count"), [("train", 10), ("test", 9)])
def test_make_toy_data__boxes_and_areas_are_those_of_the_masks(data, split, count):
    coco = COCO(data / "coco" / "annotations" / f"instances_{split}.json")
    assert len(coco.getImgIds()) == count
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) >= count
    for annotation in annotations:
        mask = coco.annToMask(annotation)  # H x W
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0
        assert mask.shape == (64, 64)


def test_make_toy_data__masks_of_an_image_do_not_overlap(data):
    coco = COCO(data / "coco" / "annotations" / "instances_train.json")
    several = 0
    for image_id in coco.getImgIds():
        masks = [coco.annToMask(annotation) for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id))]
        several += len(masks) > 1
        assert np.sum(masks, axis=0).max() == 1
    assert several > 0


@pytest.mark.parametrize(("split", "voc_split"), [("train", "trainval"), ("train", "train"), ("test", "test")])
def test_make_toy_data__voc_and_coco_agree_in_detectron2(data, split, voc_split):
    voc = load_voc_instances(str(data / "voc" / "VOC2007"), voc_split, TOY_CLASSES)
    json_file = str(data / "coco" / "annotations" / f"instances_{split}.json")
    coco = load_coco_json(json_file, str(data / "coco" / split))
    assert len(voc) == len(coco) > 0
    for from_voc, from_coco in zip(voc, coco, strict=True):
        image = Image.open(from_voc["file_name"])
        assert image.size == (from_voc["width"], from_voc["height"]) == (from_coco["width"], from_coco["height"])
        assert Path(from_voc["file_name"]).read_bytes() == Path(from_coco["file_name"]).read_bytes()
        assert [a["category_id"] for a in from_voc["annotations"]] == [
            # load_coco_json without a data set name leaves the ids of the file, which start at 1
            a["category_id"] - 1
            for a in from_coco["annotations"]
        ]
        for a, b in zip(from_voc["annotations"], from_coco["annotations"], strict=True):
            x, y, width, height = b["bbox"]
            assert a["bbox"] == [x, y, x + width, y + height]


def test_make_toy_data__every_class_occurs_in_both_splits(data):
    for split in ("train", "test"):
        coco = COCO(data / "coco" / "annotations" / f"instances_{split}.json")
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(TOY_CLASSES)
        assert all(coco.getAnnIds(catIds=category) for category in coco.getCatIds())


def test_make_toy_data__unlabelled_images_are_portraits_at_the_scale_of_the_scenes(data):
    assert {Image.open(path).size for path in (data / "unlabelled").iterdir()} == {(37, 37)}  # 7/12 of 64


@pytest.fixture
def things(monkeypatch) -> list[str]:
    """Return a list in which each thing that is drawn leaves its texture, then its outline."""
    drawn = []

    def watch(functions):
        def record(name, function):
            return lambda *args: drawn.append(name) or function(*args)

        return {name: record(name, function) for name, function in functions.items()}

    monkeypatch.setattr(toy, "TEXTURES", watch(TEXTURES))
    monkeypatch.setattr(toy, "OUTLINES", watch(OUTLINES))
    return drawn


def test_draw_portrait__shows_every_texture_on_every_outline(things):
    rng = np.random.default_rng(0)
    for _ in range(1500):
        toy.draw_portrait(rng, 48)
    pairs = list(zip(things[::2], things[1::2], strict=True))
    assert len(pairs) == 1500
    assert sorted(set(pairs)) == sorted((texture, outline) for texture in TEXTURES for outline in OUTLINES)


def test_draw_scene__labels_the_textures_of_the_classes_on_every_outline(things):
    rng = np.random.default_rng(0)
    labelled, distractors, pairs = 0, 0, set()
    for _ in range(400):
        things.clear()
        scene = toy.draw_scene(rng, 48)
        drawn = list(zip(things[::2], things[1::2], strict=True))
        expected = [TOY_CLASSES[label] for label in scene.classes]
        # A scene that is redrawn leaves the things of every attempt; the last ones are those of the scene.
        textures = [texture for texture, _ in drawn if texture in TOY_CLASSES]
        assert textures[len(textures) - len(expected) :] == expected
        labelled += len(expected)
        distractors += sum(texture not in TOY_CLASSES for texture, _ in drawn)
        pairs.update(pair for pair in drawn if pair[0] in TOY_CLASSES)
    assert labelled > 400
    assert distractors > 100
    assert len(pairs) == len(TOY_CLASSES) * len(OUTLINES)


def test_make_toy_data__refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"not an empty folder.*choose another"):
        make_toy_data(tmp_path / "data", **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.txt"]


def test_make_toy_data__fills_an_empty_folder(tmp_path):
    (tmp_path / "data").mkdir()
    make_toy_data(tmp_path / "data", **{**SMALL, "unlabelled": 0})
    assert len(list((tmp_path / "data" / "coco" / "train").iterdir())) == 10


def test_make_toy_data__leaves_nothing_behind_on_failure(tmp_path, monkeypatch):
    def fail_at_the_last(*args):
        raise OSError("disk full")

    monkeypatch.setattr(toy, "_write_unlabelled", fail_at_the_last)
    with pytest.raises(OSError, match="disk full"):
        make_toy_data(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": len(TOY_CLASSES) - 1}, "every class occurs"),
        ({"test": 0}, "every class occurs"),
        ({"unlabelled": -1}, "negative"),
        ({"seed": -1}, "negative"),
        ({"size": 20}, "at least 48"),
        ({"workers": 0}, "workers"),
    ],
)
def test_make_toy_data__refuses_bad_numbers(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_toy_data(tmp_path / "data", **{**SMALL, **change})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 1.0])
def test_mask_to_polygons__gives_back_any_mask(density):
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(2, 30, 2)
        mask = rng.random((height, width)) < density
        mask[rng.integers(height), rng.integers(width)] = True
        polygons = mask_to_polygons(mask)
        assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)
        again = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, int(height), int(width))))
        np.testing.assert_array_equal(again.astype(bool), mask)


def test_mask_to_polygons__a_hole_stays_open():
    mask = np.ones((9, 9), dtype=bool)
    mask[3:6, 3:6] = False
    decoded = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(mask_to_polygons(mask), 9, 9)))
    np.testing.assert_array_equal(decoded.astype(bool), mask)
    assert mask_to_polygons(np.ones((2, 3), dtype=bool)) == [[0, 0, 3, 0, 3, 2, 0, 2]]
