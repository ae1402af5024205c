import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from mocodet import configs
from mocodet.detection.data import register_datasets
from mocodet.detection.data.fraction import load_part
from mocodet.detection.modeling.norm import CPUSyncBatchNorm
from mocodet.detection.training.trainer import Trainer
from tests.detection import fake_densepose
from tests.detection.tiny import empty_config, make_voc, options
from tests.processes import run_in_processes


def trainer_for(output: Path, train: dict, test: dict, *more: str) -> Trainer:
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path("pascal_voc_R_50_DC5_24k_random.yaml")))
    cfg.merge_from_list([*options(output, train, test), *more])
    register_datasets(cfg)
    return Trainer(cfg)


def test_trainer__bfloat16_on_cpu(tmp_path):
    train, test = make_voc(tmp_path / "data", 2), make_voc(tmp_path / "data", 1, "test")
    trainer = trainer_for(tmp_path, train, test, "SOLVER.AMP.ENABLED", "True", "SOLVER.MAX_ITER", "1")
    seen = set()
    trainer.model.backbone.conv.register_forward_hook(lambda module, inputs, y: seen.add((module.training, y.dtype)))
    results = trainer.train()
    # Training under autocast; PreciseBN (training mode) and evaluation in full precision.
    assert seen == {(True, torch.bfloat16), (True, torch.float32), (False, torch.float32)}
    assert set(results["bbox"]) >= {"AP", "AP50", "AP75"}
    assert json.loads((tmp_path / "results.json").read_text()) == {test["NAME"]: results}


def test_trainer__scales_a_config_that_the_command_has_not(tmp_path):
    train, test = make_voc(tmp_path / "data", 2), make_voc(tmp_path / "data", 1, "test")
    cfg = trainer_for(tmp_path, train, test, "SOLVER.REFERENCE_WORLD_SIZE", "2").cfg
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.TEST.PRECISE_BN.NUM_ITER) == (1, 4, 4)


def test_trainer__accumulates_micro_batches(tmp_path, caplog):
    train, test = make_voc(tmp_path / "data", 6), make_voc(tmp_path / "data", 1, "test")
    seen = {}
    for micro_batches in (1, 3):
        seed_all_rng(5)
        more = ("MOCO.ACCUMULATION", str(micro_batches), "SOLVER.IMS_PER_BATCH", "3", "SOLVER.MAX_ITER", "1")
        with caplog.at_level(logging.INFO):
            trainer = trainer_for(tmp_path / str(micro_batches), train, test, *more)
        assert ("from 1 images where it is synchronised, not from 3" in caplog.text) == (micro_batches > 1)
        trainer.model.preprocess_image, seen[micro_batches] = spy_on_images(trainer.model.preprocess_image)
        assert set(trainer.train()["bbox"]) >= {"AP", "AP50", "AP75"}
        counter = trainer.model.state_dict()["backbone.conv.norm.num_batches_tracked"]
        assert counter == micro_batches + 2 * micro_batches  # training; the two iterations of PreciseBN
    assert [len(batch) for batch in seen[1]] == [3, 3, 3]
    assert [len(batch) for batch in seen[3]] == [1] * 9
    # The same images, in training as in PreciseBN.
    assert list(itertools.chain(*seen[3])) == list(itertools.chain(*seen[1]))


HALF = ("MOCO.TRAIN_FRACTION", "0.5")
REPEATED = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "2.0")


def two_iterations(output: Path, train: dict, test: dict) -> dict:
    trainer = trainer_for(output, train, test, "TEST.PRECISE_BN.ENABLED", "False")
    trainer.train()
    cfg = trainer.cfg.clone()
    cfg.merge_from_list(REPEATED)
    orders = [list(itertools.islice(Trainer._build_resumable_loader(cfg)[0], 6)) for _ in range(2)]
    cfg.merge_from_list(HALF)
    norms = [m for m in trainer.model.modules() if isinstance(m, CPUSyncBatchNorm)]
    return {
        "rank": comm.get_rank(),
        "norms": len(norms),
        "plain norms": sum(type(m) is nn.BatchNorm2d for m in trainer.model.modules()),
        "state": trainer.model.module.state_dict(),
        "seen": [
            [record["file_name"] for record in batch] for batch, _ in zip(trainer.data_loader, range(2), strict=False)
        ],
        "part": load_part(cfg).images,
        "repeated": orders[0],
        "repeated by another loader": orders[1],
    }


def test_trainer__two_processes_share_statistics_and_parameters(tmp_path):
    train, test = make_voc(tmp_path / "data", 6), make_voc(tmp_path / "data", 1, "test")
    first, second = run_in_processes(two_iterations, tmp_path, train, test)
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["part"] == second["part"]
    assert first["norms"] == 21  # 20 of a ResNet-18, one after the added convolution
    assert first["plain norms"] == 0
    assert first["seen"] != second["seen"]  # so equal statistics are no accident
    assert first["state"].keys() == second["state"].keys()
    for name, value in first["state"].items():
        assert torch.allclose(value, second["state"][name], rtol=1e-6, atol=1e-7), name
    assert first["state"]["backbone.conv.norm.num_batches_tracked"] == 2
    # Half of the 6 images hold each class: their repeat factor is the root of 2 / 0.5, and one order is shared.
    assert sorted(first["repeated"] + second["repeated"]) == sorted([*range(6), *range(6)])
    assert first["repeated"] != first["repeated by another loader"]  # as for PreciseBN: SEED does not fix the order


@pytest.mark.parametrize("more", [(), (*REPEATED, *HALF, "MOCO.ACCUMULATION", "2")])
def test_trainer__a_resumed_run_goes_on_with_the_next_images(tmp_path, more):
    train, test = make_voc(tmp_path / "data", 10), make_voc(tmp_path / "data", 1, "test")
    seen = {}
    for name in ("whole", "stopped", "resumed"):
        seed_all_rng(5)
        iterations = "2" if name == "stopped" else "4"
        output = tmp_path / ("whole" if name == "whole" else "run")
        keys = ("TEST.PRECISE_BN.ENABLED", "False", "SOLVER.MAX_ITER", iterations)
        trainer = trainer_for(output, train, test, *keys, *more)
        trainer.resume_or_load(resume=name == "resumed")
        trainer.model.preprocess_image, seen[name] = spy_on_images(trainer.model.preprocess_image)
        trainer.train()
    assert sum(map(len, seen["whole"])) == 8
    assert len(seen["whole"]) == (8 if more else 4)
    assert seen["stopped"] + seen["resumed"] == seen["whole"]
    listed = tmp_path / "run" / "labelled_images.json"
    assert listed.is_file() == bool(more)
    if more:
        (images,) = json.loads(listed.read_text())["images"].values()
        assert len(images) == 5
        assert {Path(file).stem for batch in seen["whole"] for file in batch} <= set(images)


def spy_on_images(preprocess: Callable) -> tuple[Callable, list]:
    seen = []

    def spy(batch: list[dict]) -> object:
        if "instances" in batch[0]:
            seen.append([record["file_name"] for record in batch])
        return preprocess(batch)

    return spy, seen


def statistics_after_precise_bn(output: Path, train: dict, test: dict) -> dict:
    seed_all_rng(comm.get_rank())  # the processes see images of different sizes
    sizes = ("INPUT.MIN_SIZE_TRAIN", "(32,64,96)", "TEST.PRECISE_BN.NUM_ITER", "6")
    trainer = trainer_for(output, train, test, *sizes)
    shared_before = []
    estimate = PreciseBN.update_stats

    def spy(hook: PreciseBN) -> None:
        estimate(hook)
        mine = trainer.model.module.backbone.bottom_up.stem.conv1.norm.running_mean.clone()
        shared_before.extend(comm.all_gather(mine))

    PreciseBN.update_stats = spy
    trainer.train()
    return {"before": shared_before, "state": trainer.model.module.state_dict()}


def test_trainer__processes_end_with_the_same_precise_statistics(tmp_path):
    train, test = make_voc(tmp_path / "data", 6), make_voc(tmp_path / "data", 1, "test")
    first, second = run_in_processes(statistics_after_precise_bn, tmp_path, train, test)
    assert len(first["before"]) == 2
    assert not torch.equal(*first["before"]), "PreciseBN gave equal statistics by itself: the test proves nothing"
    for name, value in first["state"].items():
        if "running_" in name:
            assert torch.equal(value, second["state"][name]), name


def test_trainer__densepose_has_its_projects_loaders(monkeypatch):
    fake_densepose.install(monkeypatch)
    cfg = empty_config(MOCO__ACCUMULATION=4)
    cfg.MODEL.DENSEPOSE_ON = True
    kind, used = Trainer.build_train_loader(cfg)
    assert (kind, used.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_BATCH) == ("train loader", 4, 16)
    assert Trainer.build_test_loader(cfg, "posed") == ("test loader", cfg, "posed")
