import re

import pytest
import yaml

from mocodet import configs
from mocodet.common.report.published import FILE, published
from mocodet.common.study.aggregate import KEYS

TASKS = yaml.safe_load(FILE.read_text(encoding="utf-8"))["TASKS"]


def trained(train=("voc_2007_trainval", "voc_2012_trainval"), iterations=24000, batch=16, **moco):
    return {
        "DATASETS": {"TRAIN": train, "TEST": ("voc_2007_test",)},
        "SOLVER": {"MAX_ITER": iterations, "IMS_PER_BATCH": batch},
        "MOCO": moco,
    }


def test_published__table_2_and_the_authors_readme():
    found = published("configs/pascal_voc_R_50_C4_24k_moco.yaml", trained())
    rows = {row.init: tuple(row.values.values()) for row in found.rows}
    assert rows["random"] == (60.2, 33.8, 33.1)
    assert rows["MoCo IN-1M"] == (81.5, 55.9, 62.6)
    assert rows["MoCo v2 IN-1M, 800 epochs"] == (82.5, 57.4, 64.0)
    assert rows["DenseCL IN-1M, 200 epochs"] == (58.7,)
    assert "CVPR 2020" in found.note
    assert "README" in found.note


def test_published__the_same_images_seen_by_fewer_gpus():
    assert published("pascal_voc_R_50_C4_24k.yaml", trained(iterations=48000, batch=8)).rows


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (trained(iterations=200), r"the published schedule processes 384,000 images, these trials 3,200\."),
        (
            trained(train=["fashion_trainval"]),
            r"trained on voc_2007_trainval, voc_2012_trainval, these trials fashion_",
        ),
        (trained() | {"MODEL": {"RESNETS": {"DEPTH": 18}}}, r"results use a ResNet-50, these trials a ResNet-18"),
        (
            trained() | {"INPUT": {"MIN_SIZE_TEST": 160}},
            r"test images of 800 pixels, these trials test images of 160",
        ),
        (trained(TRAIN_FRACTION=0.1), r"these trials use a fraction of 0\.1 of the labels"),
    ],
)
def test_published__not_beside_another_setting(config, reason):
    found = published("pascal_voc_R_50_C4_24k_random.yaml", config)
    assert not found.rows
    assert re.search(reason, found.note)


def test_published__of_no_task_and_without_figures():
    assert published("toy_R_18_FPN_moco.yaml", trained()) == published("", {})
    lvis = {
        "DATASETS": {"TRAIN": ["lvis_v0.5_train"], "TEST": ["lvis_v0.5_val"]},
        "SOLVER": {"MAX_ITER": 180000, "IMS_PER_BATCH": 16},
    }
    assert "table 6" in published("lvis_v0.5_R_50_FPN_2x_moco.yaml", lvis).note


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["CONFIG"])
def test_file__names_configs_and_metrics(task):
    assert configs.path(f"{task['CONFIG']}.yaml")
    assert set(task["KEYS"]) <= set(KEYS)
    assert all(len(row["VALUES"]) == len(task["KEYS"]) for row in task["ROWS"])
