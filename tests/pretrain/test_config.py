import pytest

from mocodet import configs
from mocodet.pretrain.config import check_config, get_cfg
from mocodet.pretrain.methods.shuffle_bn import bn_groups

# Recipe -> the values of its config, from the papers and the original code.
COMMON = {
    "MODEL.ARCH": "resnet50",
    "MODEL.DIM": 128,
    "METHOD": "moco",
    "CONTRAST.QUEUE_SIZE": 65536,
    "CONTRAST.MOMENTUM": 0.999,
    "AUGMENTATION.CROP_SIZE": 224,
    "AUGMENTATION.MIN_SCALE": 0.2,
    "SOLVER.IMS_PER_BATCH": 256,
    "SOLVER.BASE_LR": 0.03,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.MOMENTUM": 0.9,
}
V1 = {
    "MODEL.HEAD": "fc",
    "CONTRAST.TEMPERATURE": 0.07,
    "AUGMENTATION.NAME": "moco_v1",
    "SOLVER.LR_SCHEDULE": "step",
    "SOLVER.STEPS": (120, 160),
    "SOLVER.GAMMA": 0.1,
}
IG1B = {
    **V1,
    "SOLVER.IMS_PER_BATCH": 1024,
    "SOLVER.BASE_LR": 0.12,
    "SOLVER.LR_SCHEDULE": "decay",
    "SOLVER.GAMMA": 0.9,
    "SOLVER.DECAY_PERIOD": 62_500,
    "SOLVER.MAX_ITER": 1_250_000,
}
V2 = {
    "MODEL.HEAD": "mlp",
    "CONTRAST.TEMPERATURE": 0.2,
    "AUGMENTATION.NAME": "moco_v2",
    "AUGMENTATION.BLUR_SIGMA": 2.0,
    "SOLVER.LR_SCHEDULE": "cosine",
}
DENSE = {"METHOD": "dense", "CONTRAST.DENSE_WEIGHT": 0.5, "CONTRAST.DENSE_WARMUP_ITERS": 0}
RECIPES = {
    "moco_v1_R_50_200ep": {**COMMON, **V1, "SOLVER.MAX_EPOCHS": 200},
    "moco_v2_R_50_200ep": {**COMMON, **V2, "SOLVER.MAX_EPOCHS": 200},
    "moco_v2_R_50_800ep": {**COMMON, **V2, "SOLVER.MAX_EPOCHS": 800},
    "moco_v1_R_50_IG1B": {**COMMON, **IG1B},
    "dense_R_50_200ep": {**COMMON, **V2, **DENSE, "SOLVER.MAX_EPOCHS": 200},
    "dense_R_50_coco_800ep": {**COMMON, **V2, **DENSE, "SOLVER.MAX_EPOCHS": 800, "SOLVER.BASE_LR": 0.3},
    "end_to_end_R_50_200ep": {**COMMON, **V1, "METHOD": "end_to_end", "SOLVER.MAX_EPOCHS": 200},
    "memory_bank_R_50_200ep": {
        **COMMON,
        **V1,
        "METHOD": "memory_bank",
        "CONTRAST.NUM_NEGATIVES": 65536,
        "CONTRAST.BANK_MOMENTUM": 0.5,
        "SOLVER.MAX_EPOCHS": 200,
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe__says_what_the_paper_says(name):
    cfg = get_cfg()
    cfg.merge_from_file(str(configs.path(f"pretrain/{name}.yaml")))
    for key, expected in RECIPES[name].items():
        found = cfg
        for part in key.split("."):
            found = found[part]
        assert found == expected, key


@pytest.mark.parametrize("name", ["own_images_R_50", "own_images_R_18"])
def test_own_images__follow_their_rule(name):
    """That of docs/small_scale.md."""
    cfg = get_cfg()
    cfg.merge_from_file(str(configs.path(f"pretrain/{name}.yaml")))
    batch = cfg.SOLVER.IMS_PER_BATCH
    assert pytest.approx(0.015 * batch / 64) == cfg.SOLVER.BASE_LR
    assert 8 * batch == cfg.CONTRAST.QUEUE_SIZE
    assert min(8, batch // 16) == bn_groups(cfg)
    assert pytest.approx(2 * cfg.AUGMENTATION.CROP_SIZE / 224, abs=0.005) == cfg.AUGMENTATION.BLUR_SIGMA
    assert 2 * cfg.CONTRAST.QUEUE_SIZE // batch <= cfg.SOLVER.WARMUP_ITERS


@pytest.mark.parametrize("path", sorted(configs.ROOT.glob("pretrain/*.yaml")), ids=lambda path: path.stem)
def test_every_pretraining_config__is_valid(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    check_config(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("DATA.ROOT", ""), "DATA.ROOT is ''; expected a folder of images"),
        (("DATA.SHARDS", "s.json"), "DATA.SHARDS is 's.json'; expected '' because DATA.ROOT is 'images'"),
        (
            ("METHOD", "memory_bank", "DATA.ROOT", "", "DATA.SHARDS", "s.json"),
            "expected '' because METHOD 'memory_bank' requires a folder",
        ),
        (("DATA.VAL_ROOT", "val"), "DATA.VAL_ROOT is 'val'; expected '' because METHOD 'moco' does not use labels"),
        (("KNN.VAL_ROOT", "val"), "KNN.TRAIN_ROOT is ''; expected a folder of class folders"),
        (
            ("SOLVER.MAX_ITER", 10),
            "SOLVER.MAX_ITER is 10; expected 0, because 'step' and 'cosine' schedules count epochs",
        ),
        (("AUGMENTATION.BLUR_SIGMA", 0.05), "AUGMENTATION.BLUR_SIGMA is 0.05; expected at least 0.1"),
        (("METHOD", "byol"), "METHOD is 'byol'; expected one of 'moco', 'dense', 'end_to_end', 'memory_bank'"),
        (("CONTRAST.BANK_MOMENTUM", 1.5), r"CONTRAST.BANK_MOMENTUM is 1.5; expected a number within"),
    ],
)
def test_check_config__refuses_keys_that_do_not_go_together(overrides, message):
    cfg = get_cfg()
    cfg.merge_from_list(["DATA.ROOT", "images", *overrides])
    with pytest.raises(ValueError, match=message):
        check_config(cfg)
