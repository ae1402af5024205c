import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

from mocodet import configs
from mocodet.detection import add_moco_config

VOC_SCALES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
COCO_SCALES = (640, 672, 704, 736, 768, 800)
VOC0712 = ("voc_2007_trainval", "voc_2012_trainval")
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
}  # fmt: skip
# ROI heads, backbone, outputs of the ResNet, dilation of res5, hidden layers of the box head.
MODELS = {
    "C4": ("Res5ROIHeadsExtraNorm", "build_resnet_backbone", ["res4"], 1, 0),
    "DC5": ("StandardROIHeads", "build_resnet_dilated_c5_backbone", ["res5"], 2, 2),
    "FPN": ("StandardROIHeads", "build_resnet_fpn_backbone", ["res2", "res3", "res4", "res5"], 1, 2),
}
MAY_DIFFER = {
    "MODEL.WEIGHTS",
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "OUTPUT_DIR",
}
TWINS = [f"{leaf}{twin}" for leaf in RECIPES for twin in ("", "_moco", "_random")]


def resolve(leaf: str) -> CfgNode:
    cfg = get_cfg()
    add_moco_config(cfg)
    cfg.merge_from_file(str(configs.path(f"{leaf}.yaml")))
    return cfg


def flat(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in cfg.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value}
    return found


def test_configs__are_the_21_leaves_and_those_of_the_toy_set():
    leaves = {path.stem for path in configs.ROOT.glob("*.yaml") if not path.stem.startswith(("Base-", "toy_"))}
    assert leaves == set(TWINS)
    assert len(TWINS) == 21


@pytest.mark.parametrize("leaf", RECIPES)
def test_configs__twins_differ_only_in_what_weights_require(leaf):
    supervised, moco, random = (flat(resolve(leaf + twin)) for twin in ("", "_moco", "_random"))
    assert supervised.keys() == moco.keys() == random.keys()
    assert {key for key in supervised if supervised[key] != moco[key]} == MAY_DIFFER
    assert {key for key in supervised if supervised[key] != random[key]} == MAY_DIFFER


@pytest.mark.parametrize("moco", sorted(path.stem for path in configs.ROOT.glob("*_moco.yaml")))
def test_configs__moco_and_random_differ_only_in_weights(moco):
    random = moco.removesuffix("_moco") + "_random"
    first, second = flat(resolve(moco)), flat(resolve(random))
    assert {key for key in first | second if first.get(key) != second.get(key)} == {"MODEL.WEIGHTS", "OUTPUT_DIR"}


@pytest.mark.parametrize("leaf", TWINS)
def test_configs__weights_and_what_they_require(leaf):
    cfg = resolve(leaf)
    if leaf.endswith(("_moco", "_random")):
        assert ("output/moco_v2_R_50_200ep.pkl" if leaf.endswith("_moco") else "") == cfg.MODEL.WEIGHTS
        assert cfg.INPUT.FORMAT == "RGB"
        assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.280, 103.530]
        assert cfg.MODEL.PIXEL_STD == [58.395, 57.120, 57.375]
        assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    else:
        assert cfg.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
        assert cfg.INPUT.FORMAT == "BGR"
        assert cfg.MODEL.PIXEL_MEAN == [103.530, 116.280, 123.675]
        assert cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]
        assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert f"./output/{leaf}" == cfg.OUTPUT_DIR


@pytest.mark.parametrize("leaf", TWINS)
def test_configs__follow_the_recipe(leaf):
    cfg = resolve(leaf)
    iterations, steps, warmup, train, test, scales, classes, masks, model = RECIPES[
        leaf.removesuffix("_moco").removesuffix("_random")
    ]
    assert (iterations, steps, warmup) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA) == (16, 0.02, 0.1)
    assert (train, test) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert (scales, 800) == (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST)
    assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice"
    assert (classes, masks) == (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.MASK_ON)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT) == (50, "SyncBN", 0)
    assert (cfg.TEST.PRECISE_BN.ENABLED, cfg.TEST.PRECISE_BN.NUM_ITER, cfg.TEST.EVAL_PERIOD) == (True, 200, 0)
    heads, backbone, outputs, dilation, hidden = MODELS[model]
    assert (heads, backbone) == (cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.BACKBONE.NAME)
    assert (outputs, dilation) == (cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.RES5_DILATION)
    assert hidden == cfg.MODEL.ROI_BOX_HEAD.NUM_FC
    if model == "FPN":
        assert cfg.MODEL.FPN.NORM == "SyncBN"
        assert (cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST) == (1000, 1000)
    else:
        assert (cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST) == (6000, 1000)
    assert cfg.MODEL.ROI_BOX_HEAD.NORM == cfg.MODEL.ROI_MASK_HEAD.NORM == ""
    assert cfg.MODEL.DILATED_C5.OUT_CHANNELS == 512


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"repeated {sorted(repeated)}", node.start_mark)
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize(
    "path", sorted(configs.ROOT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(configs.ROOT))
)
def test_configs__no_key_twice(path):
    assert yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)


def test_unique_key_loader__refuses():
    with pytest.raises(yaml.constructor.ConstructorError, match="repeated"):
        yaml.load("MODEL:\n  A: 1\n  B: 2\n  A: 3\n", UniqueKeyLoader)
