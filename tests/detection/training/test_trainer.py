import itertools
import json
import logging
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from mocodet import configs
from mocodet.detection.data import register_datasets
from mocodet.detection.data.fraction import load_part
from mocodet.detection.data.loader import begin_worker
from mocodet.detection.modeling.norm import CPUSyncBatchNorm
from mocodet.detection.training.trainer import Trainer
from tests.checkpoints import assert_equal_states, copy_checkpoint
from tests.detection import fake_densepose
from tests.detection.tiny import crop_to_two_shapes, empty_config, make_voc, options
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
        assert ("over 1 images if it is synchronised, instead of 3" in caplog.text) == (micro_batches > 1)
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
    keys = ("TEST.PRECISE_BN.ENABLED", "False", "SOLVER.CHECKPOINT_PERIOD", "1")
    trainer = trainer_for(output / "whole", train, test, *keys)
    trainer.train()
    if comm.is_main_process():
        copy_checkpoint(output / "whole", output / "resumed", "model_0000000.pth")
    comm.synchronize()
    seed_all_rng(9)
    resumed = trainer_for(output / "resumed", train, test, *keys)
    resumed.resume_or_load(resume=True)
    resumed.train()
    cfg = trainer.cfg.clone()
    cfg.merge_from_list(REPEATED)
    norms = [m for m in trainer.model.modules() if isinstance(m, CPUSyncBatchNorm)]
    seen = itertools.islice(trainer.data_loader, 2)
    repeated = itertools.islice(Trainer.build_train_loader(cfg).batch_sampler, 6)
    cfg.merge_from_list(HALF)
    return {
        "rank": comm.get_rank(),
        "norms": len(norms),
        "plain norms": sum(type(m) is nn.BatchNorm2d for m in trainer.model.modules()),
        "state": trainer.model.module.state_dict(),
        "resumed": resumed.model.module.state_dict(),
        "seen": [[record["file_name"] for record in batch] for batch in seen],
        "part": load_part(cfg).images,
        "repeated": [draw for batch in repeated for draw in batch],
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
    for one in (first, second):  # stopped in the middle
        assert_equal_states(one["resumed"], one["state"])
    # Each class is in half of the 6 images: their repeat factor is the root of 2 / 0.5, and one order is shared.
    drawn = sorted(first["repeated"] + second["repeated"], key=lambda draw: draw.number)
    assert [draw.number for draw in drawn] == [*range(12)]
    assert sorted(draw.image for draw in drawn) == sorted([*range(6), *range(6)])


WIDER = ("INPUT.MIN_SIZE_TRAIN", "(32, 48)", "DATALOADER.NUM_WORKERS", "2", "SEED", "-1")
BFLOAT16 = ("SOLVER.AMP.ENABLED", "True")
CROPPED = ("INPUT.CROP.ENABLED", "True")


@pytest.mark.parametrize(
    ("more", "micro_batches", "stops"),
    [(CROPPED, 1, (1, 2, 3)), ((*WIDER, *BFLOAT16, *REPEATED, *HALF), 2, (1,))],
    ids=["float32", "bfloat16"],
)
def test_trainer__a_resumed_run_is_bit_identical_to_one_that_was_not_stopped(tmp_path, more, micro_batches, stops):
    train, test = make_voc(tmp_path / "data", 10), make_voc(tmp_path / "data", 1, "test")
    crop_to_two_shapes(train)
    # PreciseBN runs and the model is evaluated after the second iteration and the third, the last.
    keys = ("SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "2", "MOCO.ACCUMULATION", str(micro_batches), *more)
    ends, seen, written = {}, {}, {}
    for stopped in (None, *stops):
        seed_all_rng(stopped)
        output = tmp_path / str(stopped)
        if stopped:
            name = "model_final" if stopped == 3 else f"model_{stopped - 1:07d}"
            copy_checkpoint(tmp_path / "None", output, f"{name}.pth")
        trainer = trainer_for(output, train, test, *keys, "SOLVER.CHECKPOINT_PERIOD", str(3 if stopped else 1))
        trainer.resume_or_load(resume=True)
        trainer.model.preprocess_image, seen[stopped] = spy_on_images(trainer.model.preprocess_image)
        trainer.checkpointer.save, written[stopped] = spy_on_metrics(trainer.checkpointer.save, output)
        results = trainer.train()
        ends[stopped] = torch.load(output / "model_final.pth", weights_only=True), results
    for stopped in stops:
        assert_equal_states(ends[stopped], ends[None])
        assert seen[stopped] == seen[None][len(seen[None]) - len(seen[stopped]) :]
        assert last_line(tmp_path / str(stopped)) == last_line(tmp_path / "None")  # of the last evaluation
    assert len(seen[None]) == (3 + 2 * 2) * micro_batches  # training, and two estimates
    # The state of a run that is killed right after a checkpoint: it does not repeat that evaluation.
    assert "bbox/AP" in written[None]["model_0000001"]
    assert "loss_cls" in written[None]["model_final"]
    listed = tmp_path / "1" / "labelled_images.json"
    assert listed.is_file() == ("MOCO.TRAIN_FRACTION" in more)
    if listed.is_file():
        (images,) = json.loads(listed.read_text())["images"].values()
        assert len(images) == 5
        assert {Path(file).stem for batch in seen[None] for file in batch} <= set(images)


def test_trainer__ends_its_loader_processes_when_it_is_stopped(tmp_path, monkeypatch):
    train, test = make_voc(tmp_path / "data", 2), make_voc(tmp_path / "data", 1, "test")
    trainer = trainer_for(tmp_path / "output", train, test, "DATALOADER.NUM_WORKERS", "1")
    before = set(active_children())
    monkeypatch.setattr(trainer, "after_step", partial(next, iter([])))
    with pytest.raises(StopIteration) as stopped:  # which holds all that the trainer was at
        trainer.train()
    assert set(active_children()) == before, stopped
    # A signal to the whole group ends no process of either kind before the step, and an evaluation, is complete.
    loaders = trainer.data_loader, trainer.build_test_loader(trainer.cfg, test["NAME"])
    assert [loader.worker_init_fn for loader in loaders] == [begin_worker, begin_worker]


def test_trainer__says_what_keeps_a_resumed_run_from_being_the_same(tmp_path, caplog):
    trainer = trainer_for(tmp_path, make_voc(tmp_path / "data", 4), make_voc(tmp_path / "data", 1, "test"))
    state = trainer.state_dict()
    for draws, warning in (
        (state["draws"], ""),
        ({**state["draws"], "SEED": 7, "processes": 8}, "SEED is 1 instead of 7, processes is 1 instead of 8"),
        (None, "does not record how images were drawn"),
    ):
        caplog.clear()
        trainer.load_state_dict({**state, "draws": draws})
        assert ("will differ from an uninterrupted one" in caplog.text) == bool(warning)
        assert warning in caplog.text


def last_line(output: Path) -> str:
    return (output / "metrics.json").read_text().splitlines()[-1]


def spy_on_metrics(save: Callable, output: Path) -> tuple[Callable, dict[str, str]]:
    """Return a ``save`` that records the content of ``metrics.json`` after each checkpoint, by its name."""
    noted: dict[str, str] = {}

    def noting(name: str, **kwargs: object) -> None:
        save(name, **kwargs)
        metrics = output / "metrics.json"
        noted[name] = metrics.read_text() if metrics.is_file() else ""

    return noting, noted


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


@pytest.mark.parametrize("grouped", [False, True])
def test_trainer__densepose_has_its_projects_images(monkeypatch, grouped):
    fake_densepose.install(monkeypatch)
    records = [{"file_name": str(n), "image_id": n, "width": 2, "height": n} for n in range(1, 5)]

    def build_train_loader(cfg: CfgNode) -> object:
        return build_detection_train_loader(cfg, mapper=lambda record: record["image_id"], dataset=records)

    monkeypatch.setattr(fake_densepose.Trainer, "build_train_loader", build_train_loader)
    cfg = empty_config(MOCO__ACCUMULATION=4, SEED=3, DATALOADER__ASPECT_RATIO_GROUPING=grouped)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.DENSEPOSE_ON = True
    loader = Trainer.build_train_loader(cfg)
    whole = list(itertools.islice(loader, 5))
    assert {*itertools.chain(*whole)} == {1, 2, 3, 4}
    assert {len(batch) for batch in whole} == {4}
    assert grouped == all({*batch} in ({1}, {2, 3, 4}, {2, 3}, {2, 4}, {3, 4}) for batch in whole)
    loader.batch_sampler.start = 3
    assert list(itertools.islice(loader, 2)) == whole[3:]
    kind, _, name = Trainer.build_test_loader(cfg, "posed")
    assert (kind, name) == ("test loader", "posed")


def test_trainer__densepose_on_images_that_a_model_annotates(monkeypatch):
    fake_densepose.install(monkeypatch)
    cfg = empty_config(SEED=3)
    cfg.MODEL.DENSEPOSE_ON = True
    with pytest.raises(ValueError, match=r"BOOTSTRAP_DATASETS .* is not supported"):
        Trainer.build_train_loader(cfg)
