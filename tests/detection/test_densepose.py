import math
import re
import shlex
import sys

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from scipy.io import savemat

from mocodet import configs
from mocodet.common.config.merge import merge_config
from mocodet.detection import add_moco_config, densepose
from mocodet.detection.evaluation.kinds import kind_of
from tests.commands import evaluate, train, visualize
from tests.detection import fake_densepose
from tests.rehearsal.surface import make_surface

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
    with pytest.raises(ValueError, match=r"requires detectron2's DensePose project, .*: +pip install .*'$") as error:
        config(LEAF)
    assert "\n" not in str(error.value)
    command = shlex.split(re.search("pip install .*", str(error.value))[0])
    assert command[-1].endswith("#subdirectory=projects/DensePose")


def test_add_densepose_keys__says_what_the_project_lacks(monkeypatch):
    fake_densepose.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "densepose", None)
    monkeypatch.setattr(densepose.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(
        ValueError, match=r"project, which cannot be imported \(import of densepose.*\)\. Install it with:  pip"
    ):
        config(LEAF)


@pytest.mark.parametrize(
    ("command", "more"),
    [(train, []), (evaluate, ["predictions"]), (visualize, ["--predictions", "run=predictions", "--output", "out"])],
)
def test_command__says_what_to_install_in_one_line(not_installed, command, more):
    with pytest.raises(SystemExit, match=r"^error: .*DensePose project, which is not installed"):
        command(["--config-file", LEAF, *more])


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
    loader, whole, asked = densepose.build_test_loader(cfg, name)
    assert (loader, asked, whole.DATALOADER.FILTER_EMPTY_ANNOTATIONS) == ("test loader", name, False)
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS  # in training images without a person remain left out
    kind_of(name).check_packages(name)
    evaluators = kind_of(name).build(cfg, name, None, "out")
    assert evaluators._evaluators[0].output_folder == "out"
    results = evaluators.evaluate()["densepose_gps"]
    assert results["AP"] == 12.5
    assert math.isnan(results["APl"])  # no ground truth of that size


def test_records_of__has_classes_for_ids(monkeypatch):
    fake_densepose.install(monkeypatch)
    (name,) = config(LEAF).DATASETS.TEST
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {1: 0}
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: [{"annotations": [{"category_id": 1}]}, {"annotations": []}])
    assert kind_of(name).records(name) == [{"annotations": [{"category_id": 0}]}, {"annotations": []}]


@pytest.fixture
def surface(monkeypatch, tmp_path):
    fake_densepose.install(monkeypatch)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for handler in PathManager._path_handlers.values():
        monkeypatch.setattr(handler, "cache_map", {}, raising=False)
    make_surface(tmp_path)
    return tmp_path / "densepose" / "data"


def test_check_surface__files(surface, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    cfg = config(LEAF)
    (name,) = cfg.DATASETS.TEST
    kind_of(name).check(cfg, name)
    # As the project's evaluator requests it: with a hint that detectron2's PathManager would refuse.
    path = PathManager.get_local_path(f"{fake_densepose.ADDRESS}/Pdist_matrix.pkl", timeout_sec=120)
    assert path == str(surface / "Pdist_matrix.pkl")
    monkeypatch.setattr("iopath.common.file_io.download", unreachable)
    (surface / "Pdist_matrix.pkl").unlink()
    with pytest.raises(
        ValueError, match=r"requires https:\S+/Pdist_matrix.pkl, .*no route to host; alternatively, place"
    ):
        kind_of(name).check(cfg, name)


def test_check_surface__products_that_overflow(surface):
    cfg = config(LEAF)
    (name,) = cfg.DATASETS.TEST
    for numbers in ("int64", "int32"):
        savemat(surface / "SMPL_SUBDIV_TRANSFORM.mat", {"index": np.arange(1, 27_555, dtype=numbers)[:, None]})
        kind_of(name).check(cfg, name)
    savemat(surface / "SMPL_SUBDIV_TRANSFORM.mat", {"index": np.arange(1, 27_555, dtype="uint16")[:, None]})
    with pytest.raises(ValueError, match=r"with NumPy .* looks up wrong distances, .* overflow their uint16"):
        kind_of(name).check(cfg, name)
