import math

import pytest
import torch
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import ConstantParamScheduler

from mocodet import configs
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.schedules import RecipeLR, lr_multiplier, max_iterations


def config_of(recipe: str, *overrides):
    cfg = get_cfg()
    cfg.merge_from_file(str(configs.path(f"pretrain/{recipe}.yaml")))
    cfg.merge_from_list(list(overrides))
    return cfg


def rates(recipe: str, iterations_per_epoch: int, *overrides) -> list[float]:
    """Return the learning rate of every iteration of a recipe."""
    cfg = config_of(recipe, *overrides)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.SOLVER.BASE_LR)
    scheduler = RecipeLR(cfg, optimizer, iterations_per_epoch)
    found = []
    for _ in range(max_iterations(cfg, iterations_per_epoch)):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("iterations_per_epoch", [1, 3, 7])
def test_v1__drops_tenfold_at_epochs_120_and_160(iterations_per_epoch):
    expected = [
        0.03 * (0.1 ** sum(epoch >= step for step in (120, 160)))
        for epoch in range(200)
        for _ in range(iterations_per_epoch)
    ]
    assert rates("moco_v1_R_50_200ep", iterations_per_epoch) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("recipe", "epochs"), [("moco_v2_R_50_200ep", 200), ("moco_v2_R_50_800ep", 800)])
@pytest.mark.parametrize("iterations_per_epoch", [1, 3, 7])
def test_v2__cosine_set_once_an_epoch(recipe, epochs, iterations_per_epoch):
    per_epoch = [0.03 * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
    expected = [rate for rate in per_epoch for _ in range(iterations_per_epoch)]
    assert rates(recipe, iterations_per_epoch) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_warmup__rises_in_a_line_to_the_schedule():
    plain = rates("moco_v1_R_50_200ep", 1)
    warm = rates("moco_v1_R_50_200ep", 1, "SOLVER.WARMUP_ITERS", 4)
    assert warm[:5] == pytest.approx([0.2 * 0.03, 0.4 * 0.03, 0.6 * 0.03, 0.8 * 0.03, 0.03])
    assert warm[4:] == plain[4:]


def test_step__a_million_iterations_drop_on_the_iteration():
    cfg = config_of("moco_v1_R_50_200ep")
    for epoch, before, after in ((120, 1.0, 0.1), (160, 0.1, 0.01)):
        first = epoch * 5004
        assert lr_multiplier(cfg, 5004, first - 1) == pytest.approx(before)
        assert lr_multiplier(cfg, 5004, first) == pytest.approx(after)


def test_step__steps_beyond_the_end_never_come():
    found = rates("moco_v1_R_50_200ep", 2, "SOLVER.MAX_EPOCHS", 130)
    assert found == pytest.approx([0.03] * 240 + [0.003] * 20)


def test_decay__times_gamma_after_every_period():
    found = rates("moco_v1_R_50_IG1B", 7, "SOLVER.MAX_ITER", 50, "SOLVER.DECAY_PERIOD", 12)
    rate, expected = 0.12, []
    for iteration in range(1, 51):
        expected.append(rate)
        if iteration % 12 == 0:
            rate *= 0.9
    assert found == pytest.approx(expected, rel=1e-9)


def test_decay__a_million_iterations_drop_on_the_iteration():
    cfg = config_of("moco_v1_R_50_IG1B", "SOLVER.MAX_ITER", 1_250_000, "SOLVER.DECAY_PERIOD", 62_500)
    for drops in (1, 7, 19):
        first = drops * 62_500
        assert lr_multiplier(cfg, 976_562, first - 1) == pytest.approx(0.9 ** (drops - 1))
        assert lr_multiplier(cfg, 976_562, first) == pytest.approx(0.9**drops)


def test_state__goes_on_from_that_of_detectron2s_scheduler():
    cfg = config_of("moco_v1_R_50_IG1B", "SOLVER.DECAY_PERIOD", 10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = RecipeLR(cfg, optimizer, 7)
    scheduler.load_state_dict({"base_lrs": [0.25], "last_epoch": 19})
    assert scheduler.state_dict() == LRMultiplier(optimizer, ConstantParamScheduler(1.0), 100).state_dict() | {
        "base_lrs": [0.25],
        "last_epoch": 19,
    }
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * 0.9**2)
