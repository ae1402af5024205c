import pytest
from fvcore.common.config import CfgNode

from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.resuming import changed_settings, check_resumed


@pytest.fixture
def cfg(tmp_path) -> CfgNode:
    """The config of a run that has saved a checkpoint."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    return cfg


def test_check_resumed__names_the_keys(cfg):
    cfg.SOLVER.BASE_LR = 0.5
    check_resumed(cfg)
    cfg.MODEL.ARCH, cfg.CONTRAST.QUEUE_SIZE = "resnet18", 512
    with pytest.raises(
        ValueError,
        match=r"run \(MODEL\.ARCH resnet50 there, resnet18 now, CONTRAST\.QUEUE_SIZE 65536 there, 512 now\); restore",
    ):
        check_resumed(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AUGMENTATION.CROP_SIZE", 96),
        ("AUGMENTATION.MIN_SCALE", 0.08),
        ("AUGMENTATION.NAME", "moco_v1"),
        ("MODEL.BN_GROUPS", 4),
        ("CONTRAST.SHUFFLE_BN", False),
    ],
)
def test_check_resumed__refuses_another_task(key, value, cfg):
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=rf"cannot change during a run \({key} .* there, {value} now\)"):
        check_resumed(cfg)


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        (("METHOD", "supervised"), "MODEL.BN_GROUPS", 4),
        (("METHOD", "memory_bank"), "CONTRAST.SHUFFLE_BN", False),
        (("METHOD", "memory_bank"), "CONTRAST.QUEUE_SIZE", 9),
        (("AUGMENTATION.NAME", "moco_v1"), "AUGMENTATION.BLUR_SIGMA", 0.5),
    ],
)
def test_check_resumed__settings_without_effect_may_change(changes, key, value, cfg, tmp_path):
    cfg.merge_from_list(changes)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    cfg.merge_from_list([key, value])
    check_resumed(cfg)


def test_check_resumed__the_default_number_of_groups_in_figures(cfg):
    cfg.MODEL.BN_GROUPS = 8
    check_resumed(cfg)
    assert changed_settings(cfg) == ""


def test_changed_settings__of_the_method_and_the_solver(cfg, tmp_path):
    cfg.merge_from_list(["SOLVER.MAX_EPOCHS", 300, "CONTRAST.TEMPERATURE", 0.3, "SOLVER.CHECKPOINT_PERIOD", 5])
    cfg.merge_from_list(["DATA.NUM_WORKERS", 3, "CONTRAST.NUM_NEGATIVES", 9])  # not of MoCo
    check_resumed(cfg)
    assert changed_settings(cfg) == "CONTRAST.TEMPERATURE 0.2 there, 0.3 now, SOLVER.MAX_EPOCHS 200 there, 300 now"
    (tmp_path / "last_checkpoint").unlink()
    assert changed_settings(cfg) == "", "without a checkpoint, no run is continued"
