import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.layers import get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils import comm

from mocodet import configs
from mocodet.detection.config import merged_config
from mocodet.detection.data import register_datasets
from mocodet.detection.data.images import in_format
from mocodet.detection.densepose import uses_densepose
from mocodet.detection.evaluation.kinds import KINDS
from mocodet.detection.training.preflight import (
    FORMATS,
    NORMS,
    check_augmentation,
    check_config,
    check_datasets,
    check_labels,
    check_run,
    recipe_for,
)
from mocodet.pretrain.config import get_cfg
from tests.detection.tiny import CLASSES, SEGMENTS, empty_config, leaf, make_coco, make_semseg, make_voc, new_name


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


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_recipe_for__makes_a_network_of_that_depth(depth):
    recipe, *changes = recipe_for(depth).split()
    cfg = get_cfg()
    cfg.merge_from_file(str(configs.path(f"pretrain/{recipe}")))
    cfg.merge_from_list(changes)
    found = cfg.MODEL.ARCH
    assert found == f"resnet{depth}"


def test_check_datasets__good(voc, tmp_path):
    check(*voc)
    coco = make_coco(tmp_path)
    check(coco, coco, MODEL__MASK_ON=True)


def test_check_datasets__masks_of_run_lengths_take_bitmasks(tmp_path):
    coco = make_coco(tmp_path)
    path = Path(coco["JSON"])
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = {"size": [64, 64], "counts": [0, 64**2]}
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"1 of the 4 .* one in .*0\.jpg, have run-length encoded masks.*add  INPUT\.MASK_F"
    ):
        check(coco, coco, MODEL__MASK_ON=True)
    check(coco, coco, MODEL__MASK_ON=True, INPUT__MASK_FORMAT="bitmask")
    check(coco, coco, MODEL__MASK_ON=False)
    content["annotations"][0]["iscrowd"] = 1  # crowds are not learned
    path.write_text(json.dumps(content))
    check(coco, coco, MODEL__MASK_ON=True)


def test_check_datasets__only_crowds(tmp_path):
    coco = make_coco(tmp_path)
    edit_annotations(coco, iscrowd=1, segmentation={"size": [64, 64], "counts": [0, 64**2]})
    with pytest.raises(
        ValueError, match=r"all of its 4 annotations are crowds \(iscrowd 1\), which are not used for tr"
    ):
        check(coco, coco)


def test_check_datasets__no_visible_keypoint(tmp_path):
    coco = make_coco(tmp_path)
    content = json.loads(Path(coco["JSON"]).read_text())
    content["categories"] = [{**content["categories"][0], "keypoints": ["nose", "left_eye", "right_eye"]}]
    Path(coco["JSON"]).write_text(json.dumps(content))
    keys = {"MODEL__KEYPOINT_ON": True, "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 3}
    keys |= {"MODEL__ROI_HEADS__NUM_CLASSES": 1, "TEST__KEYPOINT_OKS_SIGMAS": [0.1] * 3}
    edit_annotations(coco, category_id=3, keypoints=[0, 0, 0] * 3, num_keypoints=0)
    with pytest.raises(ValueError, match=r"no keypoint of data set .* has a visibility above 0, so "):
        check(coco, coco, **keys)
    check(coco, coco, **keys, MODEL__ROI_KEYPOINT_HEAD__MIN_KEYPOINTS_PER_IMAGE=0)
    edit_annotations(coco, keypoints=[9, 9, 1] * 3, num_keypoints=3)
    check(coco, coco, **keys)


def edit_annotations(entry: dict, **changes: object) -> None:
    path = Path(entry["JSON"])
    content = json.loads(path.read_text())
    content["annotations"] = [one | changes for one in content["annotations"]]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"RES2_OUT_CHANNELS": 256}, r"DEPTH is 18, but .*CHANNELS is 256; add  MODEL\.RESNETS\.RES2_OUT_CHANNELS 64$"),
        (
            {"RES5_DILATION": 2},
            r"RES5_DILATION is 2, which only dilated C5 supports for a ResNet-18; add .*DILATION 1$",
        ),
    ],
)
def test_check_config__what_a_resnet_18_requires(keys, message):
    cfg = empty_config()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    check_config(cfg)
    cfg.MODEL.RESNETS.update(keys)
    with pytest.raises(ValueError, match=message):
        check_config(cfg)
    if "RES5_DILATION" in keys:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_dilated_c5_backbone"
        check_config(cfg)


def test_check_datasets__number_of_classes(voc):
    with pytest.raises(ValueError, match=r"has 2 classes, but MODEL\.ROI_HEADS\.NUM_CLASSES is 80; add .* 2$"):
        check(*voc, MODEL__ROI_HEADS__NUM_CLASSES=80)


def test_check_datasets__number_of_classes_of_a_retinanet(voc):
    retina = {"MODEL__META_ARCHITECTURE": "RetinaNet"}
    with pytest.raises(ValueError, match=r"has 2 classes, but MODEL\.RETINANET\.NUM_CLASSES is 80; add .* 2$"):
        check(*voc, **retina)
    check(*voc, **retina, MODEL__RETINANET__NUM_CLASSES=2)


def test_check_datasets__classes_that_are_known_once_the_data_set_is_loaded(tmp_path):
    entry, name = make_coco(tmp_path), new_name()
    register_coco_instances(name, {}, entry["JSON"], entry["IMAGES"])
    check(entry, entry, DATASETS__TRAIN=(name,), DATASETS__TEST=(name,))
    assert MetadataCatalog.get(name).thing_classes == list(CLASSES)


def test_check_datasets__classes_of_train_and_test_differ(voc):
    train, test = voc
    with pytest.raises(ValueError, match=r"same classes in the same order: .* has cat, dog; .* has dog, cat"):
        check(train, test | {"CLASSES": ["dog", "cat"]})


def test_check_datasets__annotations_are_read_before_training(voc):
    train, test = voc
    annotation = Path(test["ROOT"]) / "Annotations" / "test000.xml"
    annotation.write_text(annotation.read_text().replace("xmin", "left"))
    with pytest.raises(ValueError, match=r"test000\.xml: object 1 \(cat\) lacks a <bndbox>"):
        check(train, test)


def test_check_datasets__training_data_is_not_needed_to_evaluate(voc):
    train, test = voc
    check(train | {"ROOT": "nowhere"}, test, training=False)


def test_check_datasets__an_image_larger_than_the_mapper_takes(voc):
    train, test = voc
    message = r"train000\.jpg has 4,096 pixels, more than the limit of 4,095; .* INPUT\.MAX_PIXELS .* to 4096"
    with pytest.raises(ValueError, match=message):
        check(train, test, INPUT__MAX_PIXELS=4095)
    check(train, test, INPUT__MAX_PIXELS=4096)


def test_check_datasets__unknown_name(voc):
    with pytest.raises(ValueError, match="DATASETS contains mine, which neither detectron2 nor"):
        check(*voc, DATASETS__TEST=("mine",))


def test_check_datasets__none_named(voc):
    with pytest.raises(ValueError, match="specify a data set to train on"):
        check(*voc, DATASETS__TRAIN=())
    with pytest.raises(ValueError, match="specify a data set to evaluate on"):
        check(*voc, training=False, DATASETS__TEST=())


def test_check_datasets__builtin_without_files(voc):
    names = {"DATASETS__TRAIN": ("voc_2007_trainval",), "DATASETS__TEST": ("voc_2007_test",)}
    with pytest.raises(FileNotFoundError, match=r"VOC2007 not found; .*DETECTRON2_DATASETS"):
        check(*voc, MODEL__ROI_HEADS__NUM_CLASSES=20, **names)


def test_check_datasets__masks_wanted_but_absent(voc):
    with pytest.raises(
        ValueError, match=r"MODEL\.MASK_ON is True, but 2 of the 2 annotations of data set .* have no mask"
    ):
        check(*voc, MODEL__MASK_ON=True)


def test_check_datasets__nothing_annotated(tmp_path):
    coco = make_coco(tmp_path)
    path = Path(coco["JSON"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: none of its 4 images has annotations"):
        check(coco, coco)


KEYPOINT_NAMES = ["nose", "left_eye", "right_eye"]


def with_keypoints(entry: dict) -> dict:
    """Name the keypoints of a tiny COCO set's only class and give its objects some."""
    path = Path(entry["JSON"])
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 3, "name": "cat", "keypoints": KEYPOINT_NAMES}]
    for annotation in content["annotations"]:
        annotation |= {"category_id": 3, "keypoints": [20, 20, 2] * len(KEYPOINT_NAMES), "num_keypoints": 3}
    path.write_text(json.dumps(content))
    return entry


def check_keypoints(entry: dict, **keys: object) -> None:
    check(
        entry,
        entry,
        **{
            "MODEL__KEYPOINT_ON": True,
            "MODEL__ROI_HEADS__NUM_CLASSES": 1,
            "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 3,
            **keys,
        },
    )


def test_check_datasets__keypoints_good(tmp_path):
    check_keypoints(with_keypoints(make_coco(tmp_path)))


def test_check_datasets__keypoints_wanted_but_absent(voc, tmp_path):
    with pytest.raises(ValueError, match=r"KEYPOINT_ON is True, but 4 of the 4 annotations of .* have no keypoints"):
        check_keypoints(make_coco(tmp_path / "coco"))
    with pytest.raises(ValueError, match=r"MODEL\.KEYPOINT_ON is True, but data set .* has no keypoints"):
        check(*voc, training=False, MODEL__KEYPOINT_ON=True)


def test_check_datasets__number_of_keypoints(tmp_path):
    with pytest.raises(ValueError, match=r"has 3 keypoints, but .*NUM_KEYPOINTS is 17; add .*NUM_KEYPOINTS 3$"):
        check_keypoints(with_keypoints(make_coco(tmp_path)), MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS=17)


def test_check_datasets__keypoints_of_several_classes(tmp_path):
    entry = with_keypoints(make_coco(tmp_path))
    path = Path(entry["JSON"])
    content = json.loads(path.read_text())
    content["categories"].append({"id": 5, "name": "dog", "keypoints": KEYPOINT_NAMES})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has 2 classes \(cat, dog\); a keypoint detector supports only one"):
        check_keypoints(entry, MODEL__ROI_HEADS__NUM_CLASSES=2)


SEGMENTOR = {"MODEL__META_ARCHITECTURE": "SemanticSegmentor", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": len(SEGMENTS)}


def test_check_datasets__label_images(tmp_path):
    entry = make_semseg(tmp_path)
    check(entry, entry, **SEGMENTOR)
    with pytest.raises(
        ValueError, match=rf"has {len(SEGMENTS)} classes, but MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 54; add "
    ):
        check(entry, entry, **SEGMENTOR | {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 54})


def test_check_datasets__ignored_label(tmp_path):
    entry = make_semseg(tmp_path)
    with pytest.raises(ValueError, match=r"ignores the label 255, but .*IGNORE_VALUE is 0; add .*IGNORE_VALUE 255$"):
        check(entry, entry, **SEGMENTOR, MODEL__SEM_SEG_HEAD__IGNORE_VALUE=0)


def test_check_datasets__another_kind_of_annotation_than_the_model_learns_from(voc, tmp_path):
    entry = make_semseg(tmp_path / "semseg")
    with pytest.raises(ValueError, match=r"GeneralizedRCNN learns from objects, but data set .* has label images"):
        check(entry, entry)
    with pytest.raises(ValueError, match=r"SemanticSegmentor learns from label images, but data set .* has objects"):
        check(*voc, **SEGMENTOR)
    with pytest.raises(ValueError, match=rf"label images, but data set {voc[1]['NAME']} has objects"):
        check(entry, voc[1], **SEGMENTOR)
    with pytest.raises(ValueError, match=r"learns from objects, but data set voc_2012_val_sem_seg has label images"):
        check(*voc, DATASETS__TEST=("voc_2012_val_sem_seg",))
    with pytest.raises(ValueError, match=r"learns from label images, but data set voc_2007_test has objects"):
        check(entry, entry, **SEGMENTOR, DATASETS__TEST=("voc_2007_test",))


def test_check_datasets__panoptic_data_sets_have_both_kinds(tmp_path):
    name = new_name()
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        evaluator_type="coco_panoptic_seg", sem_seg_root=str(tmp_path), thing_classes=list(CLASSES)
    )
    check_builtin(name)
    MetadataCatalog.get(name).set(stuff_classes=list(CLASSES))
    with pytest.raises(ValueError, match=rf"{name} does not specify the label to ignore; .* \(the model ignores 255\)"):
        check_builtin(name, MODEL__META_ARCHITECTURE="SemanticSegmentor")
    MetadataCatalog.get(name).set(ignore_label=255)
    check_builtin(name, MODEL__META_ARCHITECTURE="SemanticSegmentor")


def make_cityscapes(root: Path, evaluator_type: str = "cityscapes_instance") -> str:
    """Make Cityscapes' files, empty, of two images; register them under a name that no other test has."""
    name = new_name()
    for city, stem in (("ulm", "ulm_000000_000019"), ("bochum", "bochum_000000_000313")):
        annotations = (f"{stem}_gtFine_{kind}" for kind in ("polygons.json", "instanceIds.png", "labelIds.png"))
        for path in (
            root / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png",
            *(root / "gtFine" / "val" / city / annotation for annotation in annotations),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        image_dir=str(root / "leftImg8bit" / "val"),
        gt_dir=str(root / "gtFine" / "val"),
        evaluator_type=evaluator_type,
        thing_classes=list(CLASSES),
        stuff_classes=list(CLASSES),
        ignore_label=255,
    )
    return name


def check_builtin(name: str, **keys: object) -> None:
    cfg = empty_config(DATASETS__TRAIN=(name,), DATASETS__TEST=(name,), **keys)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(CLASSES)
    check_datasets(cfg, training=True)
    if MetadataCatalog.get(name).evaluator_type in KINDS:
        check_run(cfg, resume=False, eval_only=False)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setitem(KINDS, "cityscapes_instance", replace(KINDS["cityscapes_instance"], packages=()))


def test_check_datasets__cityscapes_good(tmp_path, installed):
    check_builtin(make_cityscapes(tmp_path), MODEL__MASK_ON=True)


def test_check_datasets__cityscapes_annotation_missing(tmp_path, installed):
    name = make_cityscapes(tmp_path)
    (tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_instanceIds.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 2 images have no _gtFine_instanceIds\.png .*ulm_000000_000019$"
    ):
        check_builtin(name, MODEL__MASK_ON=True)


def test_check_datasets__cityscapes_image_missing(tmp_path, installed):
    name = make_cityscapes(tmp_path)
    (tmp_path / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 annotations .* have no image in .*ulm/ulm_000000_000019$"):
        check_builtin(name, MODEL__MASK_ON=True)


def test_check_datasets__cityscapes_something_else(tmp_path, installed):
    name = make_cityscapes(tmp_path)
    (tmp_path / "leftImg8bit/val/ulm/readme.txt").touch()
    with pytest.raises(ValueError, match=r"only one folder for each city, .*; found .*readme\.txt$"):
        check_builtin(name, MODEL__MASK_ON=True)


def test_check_datasets__cityscapes_instances_need_masks(tmp_path, installed):
    with pytest.raises(ValueError, match="evaluated only with masks"):
        check_builtin(make_cityscapes(tmp_path))


def test_check_datasets__cityscapes_on_several_machines(tmp_path, installed, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 16)  # the default batch of 16 divides among them
    monkeypatch.setattr(comm, "get_local_size", lambda: 8)
    with pytest.raises(ValueError, match=r"must run on one machine, but this run uses 2; .*--eval-only afterwards$"):
        check_builtin(make_cityscapes(tmp_path), MODEL__MASK_ON=True)


def test_check_datasets__cityscapes_train_ids_have_to_be_made(tmp_path):
    name = make_cityscapes(tmp_path, "cityscapes_sem_seg")
    with pytest.raises(
        FileNotFoundError, match=r"_gtFine_labelTrainIds\.png .*; create them with  mocodet prepare-data c"
    ):
        check_builtin(name, MODEL__META_ARCHITECTURE="SemanticSegmentor")
    for path in list((tmp_path / "gtFine").glob("*/*/*_labelIds.png")):
        Path(str(path).replace("labelIds", "labelTrainIds")).touch()
    check_builtin(name, MODEL__META_ARCHITECTURE="SemanticSegmentor")


@pytest.mark.parametrize(
    ("evaluator_type", "command"), [("lvis", "lvis"), ("cityscapes_instance", "cityscapesscripts")]
)
def test_check_datasets__packages_of_a_data_set(tmp_path, monkeypatch, evaluator_type, command):
    name = make_cityscapes(tmp_path, evaluator_type)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=rf"data set {name} requires the packages .* with: +pip install .*{command}"):
        check_builtin(name, MODEL__MASK_ON=True)


def test_check_augmentation__scale_range_of_a_detector():
    with pytest.raises(
        ValueError, match=r"INPUT\.SCALE_RANGE is supported only for a SemanticSegmentor, but .* Generalized"
    ):
        check_augmentation(empty_config(INPUT__SCALE_RANGE=(0.5, 2.0)))


@pytest.mark.parametrize("bad", [(0.5,), (2.0, 0.5), (0.0, 1.0), (0.5, 1.0, 2.0)])
def test_check_augmentation__bad_scale_range(bad):
    with pytest.raises(ValueError, match="two positive ratios, the smaller first"):
        check_augmentation(leaf("pascal_voc_R_50_FCN_30k_moco", INPUT__SCALE_RANGE=bad))


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("absolute", [0.9, 0.9], r"must be two positive integers, .*TYPE is absolute; got \[0\.9, 0\.9\]"),
        ("absolute", [65], "must be two positive integers"),
        ("absolute_range", [0, 5], "must be two positive integers"),
        ("relative", [513, 513], "must be two fractions above 0 and at most 1"),
        ("relative_range", [0.5, 0.5, 0.5], "must be two fractions"),
        ("square", [5, 5], "CROP.TYPE must be absolute, .* got 'square'"),
    ],
)
def test_check_augmentation__bad_crop(kind, size, message):
    with pytest.raises(ValueError, match=message):
        check_augmentation(leaf("pascal_voc_R_50_FCN_30k_moco", INPUT__CROP__TYPE=kind, INPUT__CROP__SIZE=size))
    # detectron2's own mapper, which detectors use, would fail on it too.
    with pytest.raises(ValueError, match=message):
        check_augmentation(empty_config(INPUT__CROP__ENABLED=True, INPUT__CROP__TYPE=kind, INPUT__CROP__SIZE=size))


@pytest.mark.parametrize("kind", ["absolute", "absolute_range"])
def test_check_augmentation__sizes_of_crops_from_a_file(kind):
    check_augmentation(leaf("pascal_voc_R_50_FCN_30k_moco", INPUT__CROP__TYPE=kind, INPUT__CROP__SIZE=(65, 97)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"MOCO__TRAIN_FRACTION": 0.0}, r"TRAIN_FRACTION must be above 0 and at most 1 \(all labels\), got 0\.0"),
        ({"MOCO__TRAIN_FRACTION": 1.5}, r"TRAIN_FRACTION must be above 0 .* got 1\.5"),
        ({"MOCO__TRAIN_FRACTION": float("nan")}, "TRAIN_FRACTION must be above 0 .* got nan"),
        ({"MOCO__FRACTION_SEED": -1}, "FRACTION_SEED must not be negative, got -1"),
        ({"MOCO__PASSES": -1}, "PASSES must not be negative, got -1"),
        ({"MOCO__PASSES": 1, "MOCO__MIN_ITERS": -5}, "MIN_ITERS must not be negative, got -5"),
        ({"MOCO__MIN_ITERS": 5}, r"MIN_ITERS 5 is the minimum length .* MOCO\.PASSES is 0; set MOCO\.PASSES, or"),
        ({"MOCO__PASSES": 1, "SOLVER__MAX_ITER": 0}, "SOLVER.MAX_ITER is 0"),
        (
            {"MOCO__TRAIN_FRACTION": 0.5, "DATALOADER__SAMPLER_TRAIN": "WeightedTrainingSampler"},
            "TRAIN_FRACTION 0.5 cannot be combined with .*WeightedTrainingSampler, .*; use TrainingSampler or",
        ),
    ],
)
def test_check_labels__refuses(keys, message):
    with pytest.raises(ValueError, match=message):
        check_labels(empty_config(**keys))


def test_check_labels__densepose_has_its_own_loader():
    cfg = empty_config(MOCO__TRAIN_FRACTION=0.5)
    check_labels(cfg)
    cfg.MODEL.DENSEPOSE_ON = True
    with pytest.raises(ValueError, match=r"have no effect on DensePose's own loader"):
        check_labels(cfg)


def test_check_run__the_quick_checks_come_before_the_slow(tmp_path):
    """Each fault hides those after it: correct them one by one, in the order that the docstring gives."""
    voc = make_voc(tmp_path / "data", 2) | {"YEAR": 2012, "CLASSES": [*CLASSES, "unicorn"]}
    cfg = empty_config(
        MOCO__DATASETS=[voc],
        MOCO__AMP_DTYPE="int8",
        INPUT__SCALE_RANGE=(2.0, 1.0),
        SOLVER__IMS_PER_BATCH=0,
        MOCO__PASSES=-1,
        MODEL__WEIGHTS="none.pth",
        DATASETS__TRAIN=(voc["NAME"],),
        DATASETS__TEST=(voc["NAME"],),
        OUTPUT_DIR=str(tmp_path / "out"),
    )
    register_datasets(cfg)
    for message, mended in (
        ("AMP_DTYPE must be one of", {"MOCO.AMP_DTYPE": "bfloat16"}),
        ("SCALE_RANGE is supported only for", {"INPUT.SCALE_RANGE": ()}),
        ("IMS_PER_BATCH 0 cannot be divided", {"SOLVER.IMS_PER_BATCH": 2}),
        ("PASSES must not be negative", {"MOCO.PASSES": 0}),
        ("MODEL.WEIGHTS is none", {"MODEL.WEIGHTS": ""}),
        ("has 3 classes, but", {"MODEL.ROI_HEADS.NUM_CLASSES": 3}),
        ("no ground truth for unicorn", {"DATASETS.TEST": ()}),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            check_run(cfg, resume=False, eval_only=False)
        cfg.merge_from_list([item for pair in mended.items() for item in pair])
    check_run(cfg, resume=True, eval_only=False)
    assert not (tmp_path / "out").exists()


def test_check_run__evaluation_needs_no_settings_of_the_training(tmp_path):
    voc = make_voc(tmp_path, 2)
    cfg = empty_config(MOCO__DATASETS=[voc], DATASETS__TEST=(voc["NAME"],), MODEL__ROI_HEADS__NUM_CLASSES=len(CLASSES))
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 0, "INPUT.SCALE_RANGE", (2.0, 1.0), "DATASETS.TRAIN", ("gone",)])
    register_datasets(cfg)
    check_run(cfg, resume=False, eval_only=True)


def test_check_run__kind_of_evaluation_that_there_is_not(tmp_path):
    voc, name = make_voc(tmp_path, 2), new_name()
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(evaluator_type="none", thing_classes=list(CLASSES))
    cfg = empty_config(MOCO__DATASETS=[voc], DATASETS__TRAIN=(voc["NAME"],), DATASETS__TEST=(name,))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    register_datasets(cfg)
    with pytest.raises(
        ValueError, match=r"has the evaluator type 'none'; the supported types are .*coco, .*pascal_voc"
    ):
        check_run(cfg, resume=False, eval_only=False)


def test_check_run__ground_truth_of_each_task_of_the_model(tmp_path):
    coco = make_coco(tmp_path)
    keys = {"DATASETS__TRAIN": (coco["NAME"],), "DATASETS__TEST": (coco["NAME"],), "MODEL__MASK_ON": True}
    cfg = empty_config(MOCO__DATASETS=[coco], MODEL__ROI_HEADS__NUM_CLASSES=len(CLASSES), **keys)
    register_datasets(cfg)
    check_run(cfg, resume=False, eval_only=False)
    path = Path(coco["JSON"])
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="none of its 4 annotations is a single object"):
        check_run(cfg, resume=False, eval_only=True)


def config_with(*pairs: object) -> CfgNode:
    """Return a config with these KEY, VALUE, ... pairs."""
    cfg = empty_config()
    cfg.merge_from_list(list(pairs))
    return cfg


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.DEVICE", "gpu", "'gpu'; expected cpu, cuda, or cuda:N for the GPU with index N$"),
        ("MODEL.DEVICE", "cuda:x", "'cuda:x'; expected cpu, cuda, or cuda:N"),
        ("MODEL.META_ARCHITECTURE", "GeneralisedRCNN", "'GeneralisedRCNN'; .*; did you mean GeneralizedRCNN\\?$"),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbon", "'build_resnet_backbon'; .*; did you mean build_resnet_back"),
        ("MODEL.ROI_HEADS.NAME", "StandardROIHead", "'StandardROIHead'; .*; did you mean StandardROIHeads\\?$"),
        ("MODEL.RESNETS.NORM", "SyncBatchNorm", "'SyncBatchNorm'; expected one of '' for none, FrozenBN, BN, SyncBN"),
        ("MODEL.FPN.NORM", "bn", "'bn'; expected one of .*; did you mean BN\\?$"),
        ("MODEL.RESNETS.DEPTH", 20, "20; expected one of 18, 34, 50, 101, 152$"),
        ("INPUT.MASK_FORMAT", "rle", "'rle'; expected one of polygon, bitmask$"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "random", "'random'; expected one of choice, range$"),
        ("INPUT.FORMAT", "rgb", "'rgb'; expected one of BGR, RGB, L, YUV-BT.601, .*; did you mean RGB\\?$"),
        ("SOLVER.STEPS", (80, 60), "\\(80, 60\\); expected increasing iterations above 0"),
        ("SOLVER.STEPS", (60, 60), "\\(60, 60\\); expected increasing"),
        ("SOLVER.STEPS", (0, 60), "\\(0, 60\\); expected increasing"),
    ],
)
def test_check_config__values_that_only_detectron2_interprets(key, value, message):
    cfg = config_with(key, value)
    with pytest.raises(ValueError, match=f"^{re.escape(key)} is {message}"):
        check_config(cfg)
    with pytest.raises(ValueError, match=f"^{re.escape(key)} is "):
        check_run(cfg, resume=False, eval_only=True)


@pytest.mark.parametrize(
    "pairs",
    [
        ("MODEL.DEVICE", "cuda:1"),
        ("MODEL.RESNETS.NORM", "", "MODEL.FPN.NORM", "GN"),
        ("INPUT.FORMAT", "YUV-BT.601"),
        ("SOLVER.STEPS", (80, 60), "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.ROI_HEADS.NAME", "Unused"),
    ],
)
def test_check_config__values_that_detectron2_accepts(pairs):
    check_config(config_with(*pairs))


@pytest.mark.parametrize("image_format", FORMATS)
def test_formats__are_read(image_format):
    channels = 1 if image_format == "L" else 3
    assert in_format(np.zeros((2, 4, 3), np.uint8), image_format).shape == (2, 4, channels)


@pytest.mark.parametrize("norm", NORMS)
def test_norms__are_built(norm):
    assert (get_norm(norm, 32) is None) == (norm == "")


def test_check_config__a_backbone_of_the_user(monkeypatch):
    def build_my_backbone(cfg: CfgNode, shape: object) -> None: ...

    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "build_my_backbone", build_my_backbone)
    check_config(config_with("MODEL.BACKBONE.NAME", "build_my_backbone", "MODEL.RESNETS.DEPTH", 26))


def test_check_config__every_config_passes():
    for path in sorted(configs.ROOT.glob("*.yaml")):
        if not path.name.startswith("Base-") and not uses_densepose(path):
            check_config(merged_config(str(path), ())[0])


def test_check_datasets__a_name_that_is_not_text(voc):
    with pytest.raises(ValueError, match=r"^DATASETS contains 1; expected the names of data sets as text, such as "):
        check(*voc, DATASETS__TRAIN=(1,))
