"""Chunks of pre-training, against the original's loop."""

import argparse

import pytest

from mocodet import configs
from mocodet.pretrain.benchmark import train
from mocodet.pretrain.trainer import PretrainTrainer
from tests.benchmarks import run_once


@pytest.fixture
def tiny(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"_BASE_: {configs.path('pretrain/toy_moco_v2_R_18.yaml')}\n"
        "AUGMENTATION: {CROP_SIZE: 32}\nSOLVER: {IMS_PER_BATCH: 16}\n"
    )
    return argparse.Namespace(config_file=str(file), iterations=1, pairs=1, device="cpu")


def test_measure__one_pair(tiny, monkeypatch):
    run_once(monkeypatch, train)
    (rows,) = train.measure(tiny)
    assert [row.contestant for row in rows] == [train.REFERENCE, "mocodet"]
    assert rows[0].name == "training, resnet18, 224 px photographs to 32 px, batch 16"
    assert rows[0].unit == "images/s"


def test_our_iterations__go_on_where_they_stopped(tiny):
    with train.config_of(tiny) as cfg:
        trainer = PretrainTrainer(cfg)
        run = train.our_iterations(trainer, 1)
        run()
        run()
    assert trainer.iter == 2
    assert trainer.scheduler.last_epoch == 2
    assert len(trainer.storage.history("loss").values()) == 2


def test_config_of__other_methods_are_refused(tiny):
    tiny.config_file = "pretrain/memory_bank_R_50_200ep.yaml"
    with pytest.raises(ValueError, match="has METHOD 'memory_bank'; expected 'moco'"), train.config_of(tiny):
        pass


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("AUGMENTATION: {NAME: moco_v1}", r"AUGMENTATION\.NAME is 'moco_v1'; expected moco_v2, as in the reference"),
        ("MODEL: {HEAD: fc}", r"MODEL\.HEAD is 'fc'; expected mlp, as in the reference"),
        ("SOLVER: {IMS_PER_BATCH: 48}", r"CONTRAST\.QUEUE_SIZE is 256; expected a multiple of the batch size 48"),
    ],
)
def test_config_of__other_work_than_the_references_is_refused(setting, message, tiny, tmp_path):
    (tmp_path / "other.yaml").write_text(f"_BASE_: tiny.yaml\n{setting}\n")
    tiny.config_file = str(tmp_path / "other.yaml")
    with pytest.raises(ValueError, match=message), train.config_of(tiny):
        pass
