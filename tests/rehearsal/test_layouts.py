import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mocodet.detection.data.toy import TOY_CLASSES
from tests.rehearsal.layouts import make_layouts

TRAIN, VAL, SIZE = 8, 4, 64
EIGHT = set(range(len(TOY_CLASSES)))

# Reads each data set by its name in a config, with detectron2's own loader, in a process that starts with the
# environment variable.
READ = """
import json, sys
from detectron2.data import DatasetCatalog, MetadataCatalog
import mocodet.detection
found = {}
for name in sys.argv[1:]:
    records = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    found[name] = {
        "images": [[record["file_name"], record.get("height"), record.get("width")] for record in records],
        "labels": [record["sem_seg_file_name"] for record in records if "sem_seg_file_name" in record],
        "categories": sorted({a["category_id"] for record in records for a in record.get("annotations", [])}),
        "objects": sum(len(record.get("annotations", [])) for record in records),
        "thing_classes": metadata.get("thing_classes"),
    }
print(json.dumps(found))
"""
DETECTION = {
    # name -> (number of images, number of classes)
    "voc_2007_trainval": (TRAIN, 20),
    "voc_2007_test": (VAL, 20),
    "voc_2012_trainval": (TRAIN + VAL, 20),
    "coco_2017_train": (TRAIN, 80),
    "coco_2017_val": (VAL, 80),
    "keypoints_coco_2017_train": (TRAIN, 1),
    "keypoints_coco_2017_val": (VAL, 1),
    "lvis_v0.5_train": (TRAIN, 1230),
    "lvis_v0.5_val": (VAL, 1230),
}
SEGMENTATION = {
    "voc_2012_trainaug_sem_seg": TRAIN,
    "voc_2012_val_sem_seg": VAL,
    "cityscapes_fine_sem_seg_train": TRAIN,
    "cityscapes_fine_sem_seg_val": VAL,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("layouts") / "datasets"
    make_layouts(root, size=SIZE, train=TRAIN, val=VAL)
    return root


def read(root: Path, *names: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, *names],
        env={**os.environ, "DETECTRON2_DATASETS": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_make_layouts__detectron2_reads_every_data_set_by_its_name(root):
    found = read(root, *DETECTION, *SEGMENTATION)
    for name, (images, classes) in DETECTION.items():
        assert len(found[name]["images"]) == images, name
        assert len(found[name]["thing_classes"]) == classes, name
        assert found[name]["objects"] > 0, name
        assert set(found[name]["categories"]) <= set(range(classes)), name
    for name in ("voc_2007_trainval", "coco_2017_train", "lvis_v0.5_train"):
        assert len(found[name]["categories"]) == len(TOY_CLASSES)  # 8 images suffice for all classes
    for name, images in SEGMENTATION.items():
        assert len(found[name]["labels"]) == images, name
    for name, content in found.items():
        for file_name, height, width in content["images"]:
            with Image.open(file_name) as image:
                assert image.size == ((2 if "cityscapes" in name else 1) * SIZE, SIZE)
                assert (height, width) in ((image.height, image.width), (None, None))


def test_make_layouts__detectron2_reads_cityscapes_instances(root):
    pytest.importorskip("shapely")  # required only by detectron2's reader of this data set
    found = read(root, "cityscapes_fine_instance_seg_train", "cityscapes_fine_instance_seg_val")
    train, val = found.values()
    assert (len(train["images"]), len(val["images"])) == (TRAIN, VAL)
    assert set(train["categories"]) == EIGHT
    assert val["thing_classes"] == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]


def test_make_layouts__voc_class_maps_agree_with_the_boxes(root):
    voc = root / "VOC2012"
    listed = {
        split: (voc / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        for split in ("train", "val", "trainval", "trainaug")
    }
    assert set(listed["train"]) < set(listed["trainaug"])
    assert not set(listed["trainaug"]) & set(listed["val"])
    assert listed["trainval"] == listed["train"] + listed["val"]
    assert {path.stem for path in (voc / "SegmentationClass").iterdir()} == set(listed["trainval"])
    assert {path.stem for path in (voc / "SegmentationClassAug").iterdir()} == set(listed["trainaug"] + listed["val"])
    for name in listed["trainval"]:
        with Image.open(voc / "SegmentationClass" / f"{name}.png") as image:
            assert image.mode == "P"
            # VOC's first colours (background, aeroplane, bicycle, bird) and that of void, as in its development kit.
            palette = np.array(image.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(palette[:4], [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]])
            np.testing.assert_array_equal(palette[255], [224, 224, 192])
            labels = np.array(image)
        with Image.open(voc / "SegmentationClassAug" / f"{name}.png") as image:
            np.testing.assert_array_equal(np.array(image), labels)
        assert set(np.unique(labels)) <= {0, *range(1, 9), 255}
        annotation = (voc / "Annotations" / f"{name}.xml").read_text()
        for index in set(np.unique(labels)) - {0, 255}:
            class_name = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat")[index - 1]
            assert f"<name>{class_name}</name>" in annotation


def test_make_layouts__coco_files_are_consistent(root):
    annotations = root / "coco" / "annotations"
    for split in ("train", "val"):
        instances = COCO(annotations / f"instances_{split}2017.json")
        ids = instances.getCatIds()
        assert len(ids) == 80
        assert (ids[0], ids[-1]) == (1, 90)
        named = {category["name"]: category for category in instances.loadCats(ids)}
        assert (named["toothbrush"]["supercategory"], named["cup"]["supercategory"]) == ("indoor", "kitchen")
        for annotation in instances.anns.values():
            assert instances.annToMask(annotation).sum() == annotation["area"]
        persons = COCO(annotations / f"person_keypoints_{split}2017.json")
        assert {a["id"] for a in persons.anns.values()} == set(instances.getAnnIds(catIds=[1]))
        (person,) = persons.loadCats(persons.getCatIds())
        assert (len(person["keypoints"]), person["keypoints"][0]) == (17, "nose")
        for annotation in persons.anns.values():
            x, y, visible = np.array(annotation["keypoints"]).reshape(-1, 3).T
            on_object = persons.annToMask(annotation)[y, x].astype(bool)
            np.testing.assert_array_equal(visible, np.where(on_object, 2, 1))
            assert annotation["num_keypoints"] == 17


def test_make_layouts__densepose_points_lie_on_persons(root):
    annotations = root / "coco" / "annotations"
    posed = without = 0
    for part, split in (("train2014", "train"), ("minival2014", "val"), ("valminusminival2014", "val")):
        densepose = COCO(annotations / f"densepose_{part}.json")
        for image in densepose.imgs.values():
            assert (root / "coco" / f"{split}2014" / image["file_name"]).is_file()
        with_points = [annotation for annotation in densepose.anns.values() if "dp_x" in annotation]
        posed += len(with_points)
        without += len(densepose.anns) - len(with_points)
        for annotation in with_points:
            # As in the project's DENSEPOSE_DATASETS.md and at http://densepose.org.
            assert len({len(annotation[f"dp_{key}"]) for key in "xyIUV"}) == 1
            assert {*annotation["dp_I"]} <= {*range(1, 25)}
            assert (
                0 <= min(annotation["dp_U"] + annotation["dp_V"]) <= max(annotation["dp_U"] + annotation["dp_V"]) <= 1
            )
            assert (
                0 <= min(annotation["dp_x"] + annotation["dp_y"]) <= max(annotation["dp_x"] + annotation["dp_y"]) < 256
            )
            assert {tuple(mask["size"]) for mask in annotation["dp_masks"] if mask} == {(256, 256)}
            left, top, width, height = annotation["bbox"]
            x = left + np.array(annotation["dp_x"]) * width / 256
            y = top + np.array(annotation["dp_y"]) * height / 256
            assert densepose.annToMask(annotation)[y.astype(int), x.astype(int)].all()
            assert len(annotation["dp_masks"]) == 14
    assert posed
    assert without


def test_make_layouts__lvis_is_federated(root):
    content = json.loads((root / "lvis" / "lvis_v0.5_train.json").read_text())
    categories = {category["id"]: category for category in content["categories"]}
    assert set(categories) == set(range(1, 1231))
    present = {annotation["category_id"] for annotation in content["annotations"]}
    assert {categories[category]["frequency"] for category in present} == set("rcf")
    assert sum(category["instance_count"] for category in categories.values()) == len(content["annotations"])
    for image in content["images"]:
        mine = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        assert mine
        assert not mine & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= mine


def test_make_layouts__cityscapes_maps_are_what_its_scripts_draw(root):
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    polygons = sorted((root / "cityscapes" / "gtFine").glob("*/*/*_polygons.json"))
    assert len(polygons) == TRAIN + VAL
    for path in polygons:
        annotation = Annotation()
        annotation.fromJsonFile(str(path))
        drawn = {
            "instanceIds": createInstanceImage(annotation, "ids"),
            "labelIds": createLabelImage(annotation, "ids"),
            "labelTrainIds": createLabelImage(annotation, "trainIds"),
            "color": createLabelImage(annotation, "color"),
        }
        for kind, expected in drawn.items():
            with Image.open(str(path).replace("polygons.json", f"{kind}.png")) as found:
                np.testing.assert_array_equal(np.array(found), np.array(expected), err_msg=f"{path} {kind}")


def test_make_layouts__same_arguments_same_files(tmp_path):
    for name in "ab":
        make_layouts(tmp_path / name, size=48, train=2, val=2, seed=3)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)


@pytest.mark.parametrize("change", [{"size": 40}, {"train": 1}, {"val": 1}, {"seed": -1}])
def test_make_layouts__refuses_and_leaves_nothing(tmp_path, change):
    with pytest.raises(ValueError, match="must be at least"):
        make_layouts(tmp_path / "data", **{"size": 48, "train": 2, "val": 2, **change})
    assert list(tmp_path.iterdir()) == []


def test_make_layouts__leaves_what_is_there(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        make_layouts(tmp_path, size=48, train=2, val=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
