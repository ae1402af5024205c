import pytest
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from mocodet import configs
from mocodet.detection.training.scaling import SCALED_KEYS, TIMED_KEYS, scale_to_processes, schedule_in_passes
from tests.detection.tiny import empty_config


def voc(**keys: object) -> CfgNode:
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path("pascal_voc_R_50_C4_24k_moco.yaml")))
    cfg.merge_from_list([item for key, value in keys.items() for item in (key.replace("__", "."), value)])
    return cfg


def flat(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    return {
        key: value
        for name, node in cfg.items()
        for key, value in (
            flat(node, f"{prefix}{name}.") if isinstance(node, CfgNode) else {f"{prefix}{name}": node}
        ).items()
    }


@pytest.mark.parametrize(
    ("processes", "batch", "rate", "times"), [(1, 2, 0.0025, 8), (2, 4, 0.005, 4), (4, 8, 0.01, 2), (16, 32, 0.04, 0.5)]
)
def test_scale_to_processes__linear_rule(processes, batch, rate, times):
    cfg = voc(SOLVER__REFERENCE_WORLD_SIZE=8, TEST__EVAL_PERIOD=1000)
    expected, before = DefaultTrainer.auto_scale_workers(cfg, processes), flat(cfg)
    expected.TEST.PRECISE_BN.NUM_ITER = 200 * times  # batches of 16 / times images: as many images as before
    table = scale_to_processes(cfg, processes)
    assert cfg == expected
    after = flat(cfg)
    assert {key: after[key] for key in SCALED_KEYS} == {
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.BASE_LR": pytest.approx(rate),
        "SOLVER.STEPS": (18000 * times, 22000 * times),
        "SOLVER.MAX_ITER": 24000 * times,
        "SOLVER.WARMUP_ITERS": 100 * times,
        "SOLVER.CHECKPOINT_PERIOD": 5000 * times,
        "TEST.EVAL_PERIOD": 1000 * times,
        "TEST.PRECISE_BN.NUM_ITER": 200 * times,
    }
    assert after["SOLVER.REFERENCE_WORLD_SIZE"] == processes
    # The table shows all changes, and nothing else.
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["key", "for 8", f"for {processes}"]
    changed = {key for key in after if after[key] != before[key]} - {"SOLVER.REFERENCE_WORLD_SIZE"}
    assert changed == set(SCALED_KEYS)
    assert {row[0]: row[1:] for row in rows[2:]} == {key: [str(before[key]), str(after[key])] for key in SCALED_KEYS}


def test_scale_to_processes__halves_with_batch_8_as_the_authors_advise():
    cfg = voc(SOLVER__REFERENCE_WORLD_SIZE=2)  # 8 images fit into each process
    scale_to_processes(cfg, 1)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (8, 0.01, 48000)
    assert cfg.SOLVER.STEPS == (36000, 44000)


def test_scale_to_processes__precise_bn_sees_at_least_one_batch():
    cfg = voc(SOLVER__REFERENCE_WORLD_SIZE=8, TEST__PRECISE_BN__NUM_ITER=1)
    scale_to_processes(cfg, 64)
    assert cfg.TEST.PRECISE_BN.NUM_ITER == 1


@pytest.mark.parametrize("reference", [0, 4])
def test_scale_to_processes__nothing_to_do(reference):
    cfg = voc(SOLVER__REFERENCE_WORLD_SIZE=reference)
    before = cfg.clone()
    assert scale_to_processes(cfg, 4) == ""
    assert cfg == before


@pytest.mark.parametrize("reference", [3, -1])
def test_scale_to_processes__batch_that_the_reference_cannot_divide(reference):
    cfg = voc(SOLVER__REFERENCE_WORLD_SIZE=reference)
    with pytest.raises(ValueError, match=rf"IMS_PER_BATCH 16 cannot be divided among the {reference} processes"):
        scale_to_processes(cfg, 1)


@pytest.mark.parametrize(
    ("passes", "images", "least", "iterations", "steps", "warmup", "checkpoints", "evaluations"),
    [
        # 20 x 501 images are 626.25 batches of 16; of 24,000 iterations 18,000 and 22,000 were at the first steps
        (20, 501, 0, 627, (470, 575), 3, 131, 26),
        (20, 501, 600, 627, (470, 575), 3, 131, 26),
        (20, 501, 1200, 1200, (900, 1100), 5, 250, 50),
        (1000, 1600, 7, 100_000, (75_000, 91_667), 417, 20_833, 4167),
        (1, 8, 0, 1, (), 0, 1, 1),
        (1, 40, 0, 3, (2,), 0, 1, 1),
    ],
)
def test_schedule_in_passes__proportions(passes, images, least, iterations, steps, warmup, checkpoints, evaluations):
    cfg = voc(MOCO__PASSES=passes, MOCO__MIN_ITERS=least, TEST__EVAL_PERIOD=1000)
    before = flat(cfg)
    table = schedule_in_passes(cfg, images)
    after = flat(cfg)
    wanted = (iterations, steps, warmup, checkpoints, evaluations)
    assert tuple(after[key] for key in TIMED_KEYS) == wanted
    assert {key for key in after if after[key] != before[key]} <= set(TIMED_KEYS)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["key", "the config's", f"{iterations * 16 / images:.4g} passes over {images} images"]
    assert rows[2:] == [[key, str(before[key]), str(after[key])] for key in TIMED_KEYS]
    assert schedule_in_passes(cfg, images) == "", "once is enough"
    assert flat(cfg) == after


def test_schedule_in_passes__nothing_asked():
    cfg = voc()
    assert schedule_in_passes(cfg, 10) == ""
    assert cfg == voc()


@pytest.mark.parametrize("processes", [1, 4])
def test_schedule_in_passes__shows_as_many_images_after_scaling(processes):
    cfg = voc(SOLVER__REFERENCE_WORLD_SIZE=8, MOCO__PASSES=12)
    scale_to_processes(cfg, processes)
    schedule_in_passes(cfg, 400)
    assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH == 12 * 400
    assert cfg.TEST.EVAL_PERIOD == 0
