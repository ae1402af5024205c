import json
from pathlib import Path

import pytest

from mocodet.detection.data import check_datasets, register_datasets
from tests.detection.tiny import CLASSES, empty_config, make_coco, make_voc


def check(train: dict, test: dict, training: bool = True, **keys: object) -> None:
    cfg = empty_config(
        MOCO__DATASETS=[train, test],
        **{
            "DATASETS__TRAIN": (train["NAME"],),
            "DATASETS__TEST": (test["NAME"],),
            "MODEL__ROI_HEADS__NUM_CLASSES": len(CLASSES),
            **keys,
        },
    )
    register_datasets(cfg)
    check_datasets(cfg, training=training)


@pytest.fixture
def voc(tmp_path: Path) -> tuple[dict, dict]:
    return make_voc(tmp_path, 2, "train"), make_voc(tmp_path, 1, "test")


def test_check_datasets__good(voc, tmp_path):
    check(*voc)
    coco = make_coco(tmp_path)
    check(coco, coco, MODEL__MASK_ON=True)


def test_check_datasets__number_of_classes(voc):
    with pytest.raises(ValueError, match=r"has 2 classes, but MODEL\.ROI_HEADS\.NUM_CLASSES is 80; add .* 2$"):
        check(*voc, MODEL__ROI_HEADS__NUM_CLASSES=80)


def test_check_datasets__classes_of_train_and_test_differ(voc):
    train, test = voc
    with pytest.raises(ValueError, match=r"same classes in the same order: .* has cat, dog; .* has dog, cat"):
        check(train, test | {"CLASSES": ["dog", "cat"]})


def test_check_datasets__annotations_are_read_before_training(voc):
    train, test = voc
    annotation = Path(test["ROOT"]) / "Annotations" / "test000.xml"
    annotation.write_text(annotation.read_text().replace("cat", "cow"))
    with pytest.raises(ValueError, match=r"test000\.xml holds an object of class 'cow'"):
        check(train, test)


def test_check_datasets__training_data_is_not_needed_to_evaluate(voc):
    train, test = voc
    check(train | {"ROOT": "nowhere"}, test, training=False)


def test_check_datasets__unknown_name(voc):
    with pytest.raises(ValueError, match="DATASETS names mine, which neither detectron2 nor"):
        check(*voc, DATASETS__TEST=("mine",))


def test_check_datasets__none_named(voc):
    with pytest.raises(ValueError, match="no data set to train on"):
        check(*voc, DATASETS__TRAIN=())
    with pytest.raises(ValueError, match="no data set to evaluate on"):
        check(*voc, training=False, DATASETS__TEST=())


def test_check_datasets__builtin_without_files(voc):
    names = {"DATASETS__TRAIN": ("voc_2007_trainval",), "DATASETS__TEST": ("voc_2007_test",)}
    with pytest.raises(FileNotFoundError, match=r"no .*VOC2007; .*DETECTRON2_DATASETS"):
        check(*voc, MODEL__ROI_HEADS__NUM_CLASSES=20, **names)


def test_check_datasets__masks_wanted_but_absent(voc):
    with pytest.raises(ValueError, match=r"MODEL\.MASK_ON, but 2 of the 2 annotations of data set .* have no mask"):
        check(*voc, MODEL__MASK_ON=True)


def test_check_datasets__nothing_annotated(tmp_path):
    coco = make_coco(tmp_path)
    path = Path(coco["JSON"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(ValueError, match="none of its 4 images has an annotation to train on"):
        check(coco, coco)
