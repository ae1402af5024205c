import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from mocodet import configs
from mocodet.detection.data import register_datasets
from mocodet.detection.modeling import CPUSyncBatchNorm
from mocodet.detection.trainer import AutocastTrainer, ShareStatistics, Trainer, write_results
from tests.detection.tiny import empty_config, make_voc, options
from tests.processes import run_in_processes


class Regression(nn.Module):
    """Losses of a linear layer; notes what type it computed in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.linear(x)
        self.dtype = y.dtype
        y = y.float()  # as a detector's losses are; float16's first loss scale would overflow otherwise
        return {"square": 1e-3 * y.square().mean(), "absolute": 1e-3 * y.abs().mean()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trainer__steps(dtype):
    ours, reference = Regression(), Regression()
    data = [torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    trainer = AutocastTrainer(ours, data, torch.optim.SGD(ours.parameters(), 50, 0.9), "cpu", dtype)
    optimizer = torch.optim.SGD(reference.parameters(), 50, 0.9)
    with EventStorage() as storage:
        for trainer.iter, x in enumerate(data):
            trainer.run_step()
            with torch.autocast("cpu", dtype=dtype):
                losses = reference(x)
            optimizer.zero_grad()
            (losses["square"] + losses["absolute"]).backward()
            optimizer.step()
    assert ours.dtype == dtype
    assert ours.linear.weight.dtype == torch.float32
    assert torch.allclose(ours.linear.weight, reference.linear.weight, rtol=1e-3, atol=1e-4)
    assert storage.latest()["total_loss"][0] == pytest.approx(sum(loss.item() for loss in losses.values()), rel=1e-2)
    trainer.load_state_dict(trainer.state_dict())


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


def two_iterations(output: Path, train: dict, test: dict) -> dict:
    trainer = trainer_for(output, train, test, "TEST.PRECISE_BN.ENABLED", "False")
    trainer.train()
    norms = [m for m in trainer.model.modules() if isinstance(m, CPUSyncBatchNorm)]
    return {
        "rank": comm.get_rank(),
        "norms": len(norms),
        "plain norms": sum(type(m) is nn.BatchNorm2d for m in trainer.model.modules()),
        "state": trainer.model.module.state_dict(),
        "seen": [
            [record["file_name"] for record in batch] for batch, _ in zip(trainer.data_loader, range(2), strict=False)
        ],
    }


def test_trainer__two_processes_share_statistics_and_parameters(tmp_path):
    train, test = make_voc(tmp_path / "data", 6), make_voc(tmp_path / "data", 1, "test")
    first, second = run_in_processes(two_iterations, tmp_path, train, test)
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["norms"] == 21  # 20 of a ResNet-18, one after the added convolution
    assert first["plain norms"] == 0
    assert first["seen"] != second["seen"]  # so equal statistics are no accident
    assert first["state"].keys() == second["state"].keys()
    for name, value in first["state"].items():
        assert torch.allclose(value, second["state"][name], rtol=1e-6, atol=1e-7), name
    assert first["state"]["backbone.conv.norm.num_batches_tracked"] == 2


def test_trainer__a_resumed_run_goes_on_with_the_next_images(tmp_path):
    train, test = make_voc(tmp_path / "data", 10), make_voc(tmp_path / "data", 1, "test")
    seen = {}
    for name in ("whole", "stopped", "resumed"):
        seed_all_rng(5)
        iterations = "2" if name == "stopped" else "4"
        output = tmp_path / ("whole" if name == "whole" else "run")
        more = ("TEST.PRECISE_BN.ENABLED", "False", "SOLVER.MAX_ITER", iterations)
        trainer = trainer_for(output, train, test, *more)
        trainer.resume_or_load(resume=name == "resumed")
        trainer.model.preprocess_image, seen[name] = spy_on_images(trainer.model.preprocess_image)
        trainer.train()
    assert len(seen["whole"]) == 4
    assert seen["stopped"] + seen["resumed"] == seen["whole"]


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
    share = ShareStatistics.share

    def spy(hook: ShareStatistics) -> None:
        mine = trainer.model.module.backbone.bottom_up.stem.conv1.norm.running_mean.clone()
        shared_before.extend(comm.all_gather(mine))
        share(hook)

    ShareStatistics.share = spy
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


def test_write_results__undefined_becomes_null(tmp_path):
    write_results({"mine": {"bbox": {"AP": 1.5, "APl": float("nan")}}}, str(tmp_path))
    assert (tmp_path / "results.json").read_text().count("null") == 1
    assert json.loads((tmp_path / "results.json").read_text()) == {"mine": {"bbox": {"AP": 1.5, "APl": None}}}
