import re
import shlex
import sys

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog

from mocodet import configs
from mocodet.common.config.merge import merge_config
from mocodet.detection import add_moco_config, densepose
from mocodet.detection.evaluation.kinds import kind_of
from tests.commands import train
from tests.detection import fake_densepose

LEAF = "coco_densepose_R_50_FPN_s1x_moco.yaml"


def config(leaf: str) -> CfgNode:
    cfg = get_cfg()
    add_moco_config(cfg)
    densepose.add_densepose_keys(cfg, leaf)
    merge_config(cfg, leaf, [])
    return cfg


@pytest.fixture
def not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "densepose", None)  # import and find_spec both fail
    monkeypatch.setattr(densepose.importlib.util, "find_spec", lambda name: None)


def test_add_densepose_keys__says_what_to_install(not_installed):
    with pytest.raises(ValueError, match=r"needs detectron2's DensePose project, .*: +pip install '.*'$") as error:
        config(LEAF)
    assert "\n" not in str(error.value)
    command = shlex.split(re.search("pip install .*", str(error.value))[0])
    assert command[-1].endswith("#subdirectory=projects/DensePose")


def test_train_command__says_what_to_install_in_one_line(not_installed):
    with pytest.raises(SystemExit, match=r"^error: .*DensePose project, which is not installed"):
        train(["--config-file", LEAF])


def test_add_densepose_keys__leaves_other_configs_alone(not_installed):
    assert not densepose.is_densepose(config("coco_R_50_FPN_1x.yaml"))


def test_add_densepose_keys__finds_the_need_in_a_base(monkeypatch, tmp_path):
    fake_densepose.install(monkeypatch)
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"_BASE_: {configs.path(LEAF)}\nSOLVER:\n  MAX_ITER: 5\n")
    cfg = config(str(mine))
    assert densepose.is_densepose(cfg)
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.ROI_HEADS.NAME) == (5, "DensePoseROIHeads")


def test_add_densepose_keys__looks_for_data_where_detectron2_does(monkeypatch):
    fake_densepose.install(monkeypatch)
    monkeypatch.setenv("DETECTRON2_DATASETS", "/somewhere")
    (name,) = config(LEAF).DATASETS.TEST
    metadata = MetadataCatalog.get(name)
    assert metadata.json_file == "/somewhere/coco/annotations/densepose_minival2014.json"
    assert metadata.image_root == "/somewhere/coco/val2014"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    config(LEAF)
    assert MetadataCatalog.get(name).image_root == "datasets/coco/val2014"


def test_densepose__uses_the_projects_loaders_and_metrics(monkeypatch):
    fake_densepose.install(monkeypatch)
    cfg = config(LEAF)
    (name,) = cfg.DATASETS.TEST
    assert densepose.trainer().build_train_loader(cfg) == ("train loader", cfg)
    assert densepose.trainer().build_test_loader(cfg, name) == ("test loader", cfg, name)
    kind_of(name).check_packages(name)
    assert kind_of(name).build(cfg, name, None, "out") == ("evaluator", cfg, name, "out")
