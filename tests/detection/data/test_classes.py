import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mocodet.detection import register_datasets
from mocodet.detection.data.classes import (
    Classes,
    class_colours,
    classes_of,
    from_checkpoint,
    number_of_classes,
    numbered,
    to_checkpoint,
)
from tests.detection.tiny import CLASSES, SEGMENTS, empty_config, make_coco, make_semseg, make_voc, new_name

PERSON = Classes(
    names=("person",),
    ids=("p",),
    colours=((1, 2, 255),),
    keypoints=("nose", "ear", "eye"),
    skeleton=(("nose", "eye"), ("eye", "ear")),
)


@pytest.mark.parametrize(
    ("make", "names", "ids"),
    [(make_coco, CLASSES, (3, 5)), (make_voc, CLASSES, (1, 2)), (make_semseg, SEGMENTS, (0, 1, 2, 3))],
)
def test_classes_of__names_and_the_files_ids(tmp_path, make, names, ids):
    entry = make(tmp_path, 2)
    cfg = empty_config(MOCO__DATASETS=[entry])
    if make is make_semseg:
        cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    register_datasets(cfg)
    DatasetCatalog.get(entry["NAME"])
    classes = classes_of(cfg, entry["NAME"])
    assert (classes.names, classes.ids) == (names, ids)
    assert len(set(classes.colours)) == len(names)
    assert classes_of(cfg, new_name()) is None


def test_classes_of__keypoints_of_coco():
    cfg = empty_config(MODEL__KEYPOINT_ON=True)
    classes = classes_of(cfg, "keypoints_coco_2017_val")
    assert classes.names == ("person",)
    assert len(classes.keypoints) == 17
    metadata, known = classes.as_metadata(), MetadataCatalog.get("keypoints_coco_2017_val")
    assert metadata.keypoint_names == list(known.keypoint_names)
    assert [line[:2] for line in metadata.keypoint_connection_rules] == [
        line[:2] for line in known.keypoint_connection_rules
    ]
    assert classes_of(empty_config(), "keypoints_coco_2017_val").keypoints == ()


def test_classes_of__cocos_ids_and_colours():
    classes, known = classes_of(empty_config(), "coco_2017_val"), MetadataCatalog.get("coco_2017_val")
    assert dict(zip(classes.ids, range(80), strict=True)) == known.thing_dataset_id_to_contiguous_id
    assert [list(colour) for colour in classes.colours] == known.thing_colors


def test_categories__as_coco_lists_them():
    (category,) = PERSON.categories()
    assert category == {
        "id": "p",
        "name": "person",
        "keypoints": ["nose", "ear", "eye"],
        "skeleton": [[1, 3], [3, 2]],
    }
    cfg = empty_config(MODEL__ROI_HEADS__NUM_CLASSES=2, MODEL__SEM_SEG_HEAD__NUM_CLASSES=1)
    assert numbered(cfg).categories() == [{"id": 1, "name": "class 1"}, {"id": 2, "name": "class 2"}]
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    assert numbered(cfg).categories() == [{"id": 0, "name": "class 0"}]


def test_checkpoint__gives_back_what_it_was_given(tmp_path):
    torch.save({"classes": to_checkpoint(PERSON)}, tmp_path / "x.pth")
    assert from_checkpoint(torch.load(tmp_path / "x.pth", weights_only=True)["classes"]) == PERSON


@pytest.mark.parametrize("kept", [None, 7, ["cat", "dog"], {"names": ["cat"]}, to_checkpoint(PERSON) | {"ids": []}])
def test_from_checkpoint__of_another_program_it_is_nothing(kept):
    assert from_checkpoint(kept) is None


def test_number_of_classes__of_each_architecture():
    cfg = empty_config()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES = 3, 4, 5
    found = []
    for architecture in ("GeneralizedRCNN", "SemanticSegmentor", "RetinaNet"):
        cfg.MODEL.META_ARCHITECTURE = architecture
        found.append(number_of_classes(cfg))
    assert found == [3, 4, 5]


def test_class_colours__one_for_each_class():
    metadata = MetadataCatalog.get(new_name())
    palette = class_colours([str(number) for number in range(200)], metadata)
    assert palette.shape == (200, 3)
    assert len(np.unique(palette[:20], axis=0)) == 20
    assert palette.min() >= 0
    assert palette.max() <= 1
    metadata.thing_colors = [(255, 0, 0), (0, 0, 255)]
    assert class_colours(CLASSES, metadata).tolist() == [[1, 0, 0], [0, 0, 1]]
