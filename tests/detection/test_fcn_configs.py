import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from mocodet import configs
from tests.detection.tiny import empty_config

# Typed from recipes: iterations, steps, rate, crop, classes, training data, test data.
RECIPES = {
    "pascal_voc_R_50_FCN_30k": (
        30000, (21000, 27000), 0.003, [513, 513], 21, "voc_2012_trainaug_sem_seg", "voc_2012_val_sem_seg",
    ),
    "cityscapes_R_50_FCN_90k": (
        90000, (63000, 81000), 0.01, [769, 769], 19, "cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val",
    ),
}  # fmt: skip
LEAVES = [f"{leaf}{variant}" for leaf in RECIPES for variant in ("", "_moco", "_random")]


def resolve(leaf: str) -> CfgNode:
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path(f"{leaf}.yaml")))
    return cfg


@pytest.mark.parametrize("leaf", LEAVES)
def test_configs__follow_the_recipe(leaf):
    cfg = resolve(leaf)
    iterations, steps, rate, crop, classes, train, test = RECIPES[leaf.removesuffix("_moco").removesuffix("_random")]
    assert (iterations, steps, rate) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR)
    assert steps == (7 * iterations // 10, 9 * iterations // 10)  # 70 % and 90 % of training
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.GAMMA) == (16, 0.0001, 0.1)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.LR_SCHEDULER_NAME) == (100, "WarmupMultiStepLR")
    assert ((train,), (test,)) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert (cfg.INPUT.SCALE_RANGE, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TEST) == ((0.5, 2.0), "horizontal", 0)
    assert (True, "absolute", crop) == (cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME) == ("SemanticSegmentor", "build_resnet_backbone")
    resnets, head = cfg.MODEL.RESNETS, cfg.MODEL.SEM_SEG_HEAD
    assert (resnets.DEPTH, resnets.NORM, cfg.MODEL.BACKBONE.FREEZE_AT) == (50, "SyncBN", 0)
    assert (resnets.OUT_FEATURES, resnets.RES5_DILATION) == (["res5"], 2)
    assert (head.NAME, head.IN_FEATURES, head.NORM) == ("FCNHead", ["res5"], "SyncBN")
    assert (head.NUM_CONVS, head.CONVS_DIM, head.DILATION) == (2, 256, 6)
    assert (classes, 255, 1.0) == (head.NUM_CLASSES, head.IGNORE_VALUE, head.LOSS_WEIGHT)
    assert (cfg.TEST.PRECISE_BN.ENABLED, cfg.TEST.PRECISE_BN.NUM_ITER, cfg.TEST.EVAL_PERIOD) == (True, 200, 0)


@pytest.mark.parametrize("leaf", RECIPES)
def test_configs__data_sets_are_registered_and_have_the_classes(leaf):
    cfg = resolve(leaf)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog.list()
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        assert metadata.ignore_label == cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
