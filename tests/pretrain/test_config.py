import pytest

from mocodet import configs
from mocodet.pretrain.config import get_cfg, validate

# recipes.md, section 1: recipe -> what its config must say.
COMMON = {
    "MODEL.ARCH": "resnet50",
    "MODEL.DIM": 128,
    "CONTRAST.NAME": "moco",
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
V2 = {
    "MODEL.HEAD": "mlp",
    "CONTRAST.TEMPERATURE": 0.2,
    "AUGMENTATION.NAME": "moco_v2",
    "SOLVER.LR_SCHEDULE": "cosine",
}
RECIPES = {
    "moco_v1_R_50_200ep": {**COMMON, **V1, "SOLVER.MAX_EPOCHS": 200},
    "moco_v2_R_50_200ep": {**COMMON, **V2, "SOLVER.MAX_EPOCHS": 200},
    "moco_v2_R_50_800ep": {**COMMON, **V2, "SOLVER.MAX_EPOCHS": 800},
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


@pytest.mark.parametrize("path", sorted(configs.ROOT.glob("pretrain/*.yaml")), ids=lambda path: path.stem)
def test_every_pretraining_config__is_valid(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    validate(cfg)
