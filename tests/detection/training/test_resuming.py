from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from mocodet.detection.training.resuming import check_resumed, seed_of_run
from mocodet.detection.training.scaling import scale_to_processes
from tests.detection.tiny import empty_config, leaf


def scaled(output: Path, *, reference: int, processes: int = 0, saved: bool = False, batch: int = 16) -> CfgNode:
    """A config scaled to ``processes``, or not if 0; ``saved``: as saved by a run with a checkpoint."""
    keys = {"SOLVER__REFERENCE_WORLD_SIZE": reference, "SOLVER__IMS_PER_BATCH": batch, "OUTPUT_DIR": str(output)}
    cfg = leaf("pascal_voc_R_50_C4_24k_moco", **keys)
    if processes:
        scale_to_processes(cfg, processes)
    if saved:
        (output / "config.yaml").write_text(cfg.dump())  # as detectron2's default_setup does
        (output / "last_checkpoint").touch()
    return cfg


@pytest.mark.parametrize(
    ("reference", "batch", "remedy"),
    [(8, 8, "with 4 processes and --scale-to-gpus"), (0, 16, "without --scale-to-gpus")],
)
def test_check_resumed__scale(tmp_path, reference, batch, remedy):
    scaled(tmp_path, reference=reference, processes=4, saved=True)
    now = scaled(tmp_path, reference=8, processes=2)
    with pytest.raises(ValueError, match=rf"for batches of {batch} images, .* batches of 4; resume it {remedy}"):
        check_resumed(now)


def test_check_resumed__scaled_run_continued_unscaled(tmp_path):
    scaled(tmp_path, reference=8, processes=2, saved=True)
    with pytest.raises(ValueError, match=r"for batches of 4 images, .* batches of 16; resume it with 2 processes"):
        check_resumed(scaled(tmp_path, reference=0))


def test_check_resumed__same_batch_or_no_scaling_at_all(tmp_path):
    now = scaled(tmp_path, reference=8, processes=2)
    check_resumed(now)  # no run before
    scaled(tmp_path, reference=8, processes=2, saved=True)
    check_resumed(now)
    scaled(tmp_path, reference=8, processes=8, saved=True)
    check_resumed(scaled(tmp_path, reference=0))
    scaled(tmp_path, reference=0, processes=1, saved=True)
    check_resumed(scaled(tmp_path, reference=0, batch=8))  # the user's choice


def test_check_resumed__without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    scaled(tmp_path, reference=8, processes=4, saved=True)
    (tmp_path / "last_checkpoint").unlink()
    check_resumed(scaled(tmp_path, reference=8, processes=2))


def test_check_resumed__labels(tmp_path):
    def run(fraction: float, seed: int, saved: bool = False) -> CfgNode:
        cfg = empty_config(MOCO__TRAIN_FRACTION=fraction, MOCO__FRACTION_SEED=seed, OUTPUT_DIR=str(tmp_path))
        if saved:
            (tmp_path / "config.yaml").write_text(cfg.dump())
            (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
        return cfg

    check_resumed(run(0.5, 0))  # no run before
    run(0.25, 3, saved=True)
    check_resumed(run(0.25, 3))
    for other in ((0.5, 3), (0.25, 4), (1.0, 3)):
        with pytest.raises(ValueError, match=r"resume it with MOCO\.TRAIN_FRACTION 0\.25 MOCO\.FRACTION_SEED 3, or"):
            check_resumed(run(*other))
    run(1.0, 0, saved=True)
    check_resumed(run(1.0, 4))  # all labels form only one part
    (tmp_path / "config.yaml").write_text("SOLVER: {}\n")  # of an older run without these keys
    check_resumed(run(1.0, 0))
    with pytest.raises(ValueError, match=r"TRAIN_FRACTION 1\.0"):
        check_resumed(run(0.5, 0))


def test_check_resumed__model(tmp_path):
    """Everything that determines a model's layers is compared, in YAML's form: tuples become lists."""
    saved = empty_config(OUTPUT_DIR=str(tmp_path), MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS=(8, 8))
    (tmp_path / "config.yaml").write_text(saved.dump())
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    check_resumed(saved)
    changed = {"MODEL__RESNETS__DEPTH": 18, "MODEL__ROI_BOX_HEAD__FC_DIM": 16, "SOLVER__BASE_LR": 0.5}
    changed["MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS"] = (8, 8)
    with pytest.raises(
        ValueError,
        match=r"model \(MODEL\.RESNETS\.DEPTH 50 there, 18 now, MODEL\.ROI_BOX_HEAD\.FC_DIM 1024 there, 16 now\);"
        r" .* omit --resume and set MODEL\.WEIGHTS \S+model_0000009\.pth$",
    ):
        check_resumed(empty_config(OUTPUT_DIR=str(tmp_path), **changed))


@pytest.mark.parametrize("kept", [{"draws": {"SEED": 2**31}}, {"draws": None}, {}])
def test_seed_of_run__is_the_one_that_its_checkpoint_keeps_or_drawn(tmp_path, kept):
    cfg = empty_config(OUTPUT_DIR=str(tmp_path), SEED=-1)
    assert len({seed_of_run(cfg) for _ in range(3)}) == 3
    torch.save({"trainer": kept}, tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    found = [seed_of_run(cfg) for _ in range(3)]
    assert (found == [2**31] * 3) == (kept == {"draws": {"SEED": 2**31}})
    assert min(found) >= 0
