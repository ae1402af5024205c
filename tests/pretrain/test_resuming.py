import pytest

from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.resuming import check_resumed


def test_check_resumed__names_the_keys(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    check_resumed(cfg)  # no earlier run
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    cfg.SOLVER.BASE_LR = 0.5
    check_resumed(cfg)
    cfg.MODEL.ARCH, cfg.CONTRAST.QUEUE_SIZE = "resnet18", 512
    with pytest.raises(
        ValueError,
        match=r"model \(MODEL\.ARCH resnet50 there, resnet18 now, CONTRAST\.QUEUE_SIZE 65536 there, 512 now\); restore",
    ):
        check_resumed(cfg)
