import re
from pathlib import Path

import detectron2
import pytest
from detectron2.config import CfgNode, get_cfg

from mocodet import configs
from mocodet.detection import add_moco_config
from mocodet.detection.training.scaling import schedule_in_passes
from tests.detection.fake_densepose import add_densepose_config

VOC_SCALES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
COCO_SCALES = (640, 672, 704, 736, 768, 800)
CITYSCAPES_SCALES = (800, 832, 864, 896, 928, 960, 992, 1024)
VOC0712 = ("voc_2007_trainval", "voc_2012_trainval")
KEYPOINTS = ("keypoints_coco_2017_train",), ("keypoints_coco_2017_val",)
LVIS = ("lvis_v0.5_train",), ("lvis_v0.5_val",)
CITYSCAPES = ("cityscapes_fine_instance_seg_train",), ("cityscapes_fine_instance_seg_val",)
DENSEPOSE = ("densepose_coco_2014_train", "densepose_coco_2014_valminusminival"), ("densepose_coco_2014_minival",)
# Typed from recipes: iterations, steps, warm-up, training data, test data, training scales, classes, masks, model.
RECIPES = {
    "pascal_voc_R_50_C4_24k": (
        24000, (18000, 22000), 100, VOC0712, ("voc_2007_test",), VOC_SCALES, 20, False, "C4",
    ),
    "pascal_voc_R_50_DC5_24k": (
        24000, (18000, 22000), 100, VOC0712, ("voc_2007_test",), VOC_SCALES, 20, False, "DC5",
    ),
    "pascal_voc07_R_50_C4_9k": (
        9000, (6750, 8250), 100, ("voc_2007_trainval",), ("voc_2007_test",), VOC_SCALES, 20, False, "C4",
    ),
    "coco_R_50_FPN_1x": (
        90000, (60000, 80000), 1000, ("coco_2017_train",), ("coco_2017_val",), COCO_SCALES, 80, True, "FPN",
    ),
    "coco_R_50_FPN_2x": (
        180000, (120000, 160000), 1000, ("coco_2017_train",), ("coco_2017_val",), COCO_SCALES, 80, True, "FPN",
    ),
    "coco_R_50_C4_1x": (
        90000, (60000, 80000), 1000, ("coco_2017_train",), ("coco_2017_val",), COCO_SCALES, 80, True, "C4",
    ),
    "coco_R_50_C4_2x": (
        180000, (120000, 160000), 1000, ("coco_2017_train",), ("coco_2017_val",), COCO_SCALES, 80, True, "C4",
    ),
    "coco_keypoints_R_50_FPN_2x": (
        180000, (120000, 160000), 1000, *KEYPOINTS, COCO_SCALES, 1, False, "FPN",
    ),
    "lvis_v0.5_R_50_FPN_2x": (
        180000, (120000, 160000), 1000, *LVIS, COCO_SCALES, 1230, True, "FPN",
    ),
    "cityscapes_R_50_FPN_24k": (
        24000, (18000,), 1000, *CITYSCAPES, CITYSCAPES_SCALES, 8, True, "FPN",
    ),
    "coco_densepose_R_50_FPN_s1x": (
        130000, (100000, 120000), 1000, *DENSEPOSE, COCO_SCALES, 1, False, "DensePose",
    ),
}  # fmt: skip
# Defaults for all tasks: batch and rate for eight GPUs, and detectron2's defaults.
COMMON = {
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MODEL.KEYPOINT_ON": False,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.EVAL_PERIOD": 0,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.NORM": "",
    "MODEL.DILATED_C5.OUT_CHANNELS": 512,
}
OWN_DATA = "own_data_R_50_FPN"
# From detectron2's COCO-Keypoints, LVISv0.5, Cityscapes and DensePose configs.
TASKS = {
    "coco_keypoints_R_50_FPN_2x": {
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17,
    },
    "lvis_v0.5_R_50_FPN_2x": {
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.001,
        "TEST.DETECTIONS_PER_IMAGE": 300,
    },
    "cityscapes_R_50_FPN_24k": {
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.BASE_LR": 0.01,
        "INPUT.MIN_SIZE_TEST": 1024,
        "INPUT.MAX_SIZE_TRAIN": 2048,
        "INPUT.MAX_SIZE_TEST": 2048,
    },
    "coco_densepose_R_50_FPN_s1x": {
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.WARMUP_FACTOR": 0.1,
        "MODEL.DENSEPOSE_ON": True,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.ROI_DENSEPOSE_HEAD.NAME": "DensePoseV1ConvXHead",
        "MODEL.ROI_DENSEPOSE_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS": 2,
    },
}
# ROI heads, backbone, outputs of the ResNet, dilation of res5, hidden layers of the box head.
MODELS = {
    "C4": ("Res5ROIHeadsExtraNorm", "build_resnet_backbone", ["res4"], 1, 0),
    "DC5": ("StandardROIHeads", "build_resnet_dilated_c5_backbone", ["res5"], 2, 2),
    "FPN": ("StandardROIHeads", "build_resnet_fpn_backbone", ["res2", "res3", "res4", "res5"], 1, 2),
    "DensePose": ("DensePoseROIHeads", "build_resnet_fpn_backbone", ["res2", "res3", "res4", "res5"], 1, 2),
}
MAY_DIFFER = {
    "MODEL.WEIGHTS",
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "OUTPUT_DIR",
}
VARIANTS = ("", "_moco", "_random")  # supervised, MoCo, random
# Tasks other than COCO that can start from a detector of detectron2's zoo, with its name there: those with a _coco.
ZOO = {
    "pascal_voc_R_50_C4_24k": "COCO-Detection/faster_rcnn_R_50_C4_3x",
    "pascal_voc_R_50_DC5_24k": "COCO-Detection/faster_rcnn_R_50_DC5_3x",
    "pascal_voc07_R_50_C4_9k": "COCO-Detection/faster_rcnn_R_50_C4_3x",
    "lvis_v0.5_R_50_FPN_2x": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
    "cityscapes_R_50_FPN_24k": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
    OWN_DATA: "COCO-Detection/faster_rcnn_R_50_FPN_3x",
}
PAPERS = [*(f"{leaf}{variant}" for leaf in RECIPES for variant in VARIANTS), *(f"{leaf}_coco" for leaf in ZOO)]
PAPERS.remove(f"{OWN_DATA}_coco")
FROZEN_BN = "lvis_v0.5_R_50_FPN_2x_frozen_bn"  # supervised only
TOYS = ["toy_R_18_FPN_moco", "toy_R_18_FPN_random"]
# All leaves except the toy set's, including the FCN's, whose settings are in tests/detection/test_fcn_configs.py.
LEAVES = sorted(path.stem for path in configs.ROOT.glob("*.yaml") if not path.stem.startswith(("Base-", "toy_")))
TRIOS = [leaf for leaf in LEAVES if not leaf.endswith(("_coco", "_moco", "_random")) and leaf != FROZEN_BN]


def resolve(leaf: str) -> CfgNode:
    cfg = get_cfg()
    add_moco_config(cfg)
    if "_densepose_" in leaf:
        add_densepose_config(cfg)
    cfg.merge_from_file(str(configs.path(f"{leaf}.yaml")))
    return cfg


def flat(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in cfg.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value}
    return found


def test_configs__every_task_has_three_variants():
    assert sorted(
        [*(f"{leaf}{variant}" for leaf in TRIOS for variant in VARIANTS), *(f"{leaf}_coco" for leaf in ZOO)]
    ) == [leaf for leaf in LEAVES if leaf != FROZEN_BN]
    assert ZOO.keys() == {leaf for leaf in TRIOS if not leaf.startswith("coco_") and "_FCN_" not in leaf}
    detectors = {leaf for leaf in LEAVES if "_FCN_" not in leaf}
    assert detectors == {*PAPERS, FROZEN_BN, *(f"{OWN_DATA}{variant}" for variant in (*VARIANTS, "_coco"))}
    assert len(detectors) == 43


@pytest.mark.parametrize("leaf", TRIOS)
def test_configs__variants_differ_only_in_what_weights_require(leaf):
    supervised, moco, random = (flat(resolve(leaf + variant)) for variant in VARIANTS)
    assert supervised.keys() == moco.keys() == random.keys()
    assert {key for key in supervised if supervised[key] != moco[key]} == MAY_DIFFER
    assert {key for key in supervised if supervised[key] != random[key]} == MAY_DIFFER


@pytest.mark.parametrize("leaf", ZOO)
def test_configs__start_from_a_detector_of_the_zoo_with_its_settings(leaf):
    supervised, coco = flat(resolve(leaf)), flat(resolve(f"{leaf}_coco"))
    assert {key for key in supervised if supervised[key] != coco[key]} == {"MODEL.WEIGHTS", "OUTPUT_DIR"}
    # Its model_zoo cannot be imported without pkg_resources.
    zoo = Path(detectron2.__file__).with_name("model_zoo")
    (file,) = re.findall(rf'"{ZOO[leaf]}": "(\S+)"', (zoo / "model_zoo.py").read_text())
    assert coco["MODEL.WEIGHTS"] == f"detectron2://{ZOO[leaf]}/{file}"
    theirs = get_cfg()
    theirs.merge_from_file(str(zoo / "configs" / f"{ZOO[leaf]}.yaml"))
    settings = MAY_DIFFER - {"MODEL.WEIGHTS", "OUTPUT_DIR"}
    assert {key: coco[key] for key in settings} == {key: flat(theirs)[key] for key in settings}


def test_configs__frozen_bn_differs_in_the_norms_of_the_backbone():
    tuned, frozen = flat(resolve("lvis_v0.5_R_50_FPN_2x")), flat(resolve(FROZEN_BN))
    assert {key for key in tuned if tuned[key] != frozen[key]} == {"MODEL.RESNETS.NORM", "OUTPUT_DIR"}
    assert frozen["MODEL.RESNETS.NORM"] == "FrozenBN"
    assert frozen["OUTPUT_DIR"] == f"./output/{FROZEN_BN}"


@pytest.mark.parametrize("moco", sorted(path.stem for path in configs.ROOT.glob("*_moco.yaml")))
def test_configs__moco_and_random_differ_only_in_weights(moco):
    random = moco.removesuffix("_moco") + "_random"
    first, second = flat(resolve(moco)), flat(resolve(random))
    assert {key for key in first | second if first.get(key) != second.get(key)} == {"MODEL.WEIGHTS", "OUTPUT_DIR"}


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf != FROZEN_BN] + TOYS)
def test_configs__weights_and_what_they_require(leaf):
    cfg = resolve(leaf)
    if leaf.endswith(("_moco", "_random")):
        moco = "output/demo/moco.pkl" if leaf in TOYS else "output/moco_v2_R_50_200ep.pkl"
        if leaf.startswith(OWN_DATA):
            moco = "output/own_images_R_50.pkl"
        assert (moco if leaf.endswith("_moco") else "") == cfg.MODEL.WEIGHTS
        assert cfg.INPUT.FORMAT == "RGB"
        assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.280, 103.530]
        assert cfg.MODEL.PIXEL_STD == [58.395, 57.120, 57.375]
        assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    else:
        if not leaf.endswith("_coco"):
            assert cfg.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
        assert cfg.INPUT.FORMAT == "BGR"
        assert cfg.MODEL.PIXEL_MEAN == [103.530, 116.280, 123.675]
        assert cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]
        assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert f"./output/{leaf}" == cfg.OUTPUT_DIR


@pytest.mark.parametrize(
    ("images", "iterations", "steps", "warmup"),
    [(10, 1000, (750, 917), 50), (1000, 3000, (2250, 2750), 150), (8000, 24000, (18000, 22000), 1200)],
)
def test_configs__own_data_is_as_long_as_24_passes(images, iterations, steps, warmup):
    cfg = resolve(OWN_DATA)
    assert COMMON["SOLVER.BASE_LR"] / COMMON["SOLVER.IMS_PER_BATCH"] == cfg.SOLVER.BASE_LR / cfg.SOLVER.IMS_PER_BATCH
    schedule_in_passes(cfg, images)
    assert (iterations, steps, warmup) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS)


@pytest.mark.parametrize("leaf", PAPERS)
def test_configs__follow_the_recipe(leaf):
    cfg = resolve(leaf)
    task = re.sub("_(coco|moco|random)$", "", leaf)
    iterations, steps, warmup, train, test, scales, classes, masks, model = RECIPES[task]
    assert (iterations, steps, warmup) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS)
    assert (train, test) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert (scales, classes) == (cfg.INPUT.MIN_SIZE_TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    assert masks == cfg.MODEL.MASK_ON
    heads, backbone, outputs, dilation, hidden = MODELS[model]
    assert (heads, backbone) == (cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.BACKBONE.NAME)
    assert (outputs, dilation) == (cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.RES5_DILATION)
    assert hidden == cfg.MODEL.ROI_BOX_HEAD.NUM_FC
    by_model = {"MODEL.RPN.PRE_NMS_TOPK_TEST": 6000, "MODEL.RPN.POST_NMS_TOPK_TEST": 1000}
    if backbone == "build_resnet_fpn_backbone":
        by_model = {
            "MODEL.FPN.NORM": "SyncBN",
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        }
    wanted = COMMON | by_model | TASKS.get(task, {})
    found = flat(cfg)
    assert {key: found[key] for key in wanted} == wanted
