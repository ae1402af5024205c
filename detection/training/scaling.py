"""Scales schedules to the number of processes (linear rule; Goyal et al., 2017, section 2.1) or of passes."""

from collections.abc import Sequence
from functools import reduce

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from tabulate import tabulate

# The paper's configs are written for 8 GPUs.
PAPERS_PROCESSES = 8

# The keys that detectron2's rule changes, and the number of batches over which PreciseBN computes statistics.
SCALED_KEYS = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.STEPS",
    "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "TEST.PRECISE_BN.NUM_ITER",
)

# Settings that are counted in iterations. PreciseBN requires the same number of batches for any length of the run.
TIMED_KEYS = (
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)


def scale_to_processes(cfg: CfgNode, processes: int) -> str:
    """Scale a schedule for ``SOLVER.REFERENCE_WORLD_SIZE`` processes to another number of processes (in place).

    Each process keeps its number of images, so the batch size and the learning rate change in proportion. Iterations
    and warm-up change inversely. So does the number of batches for PreciseBN, which detectron2's rule leaves unchanged,
    so that PreciseBN uses as many images as before. The reference is set to the new number of processes. Nothing
    changes if the reference already has this value or is 0.

    Returns:
        A table of the changes, or an empty string if there are none.

    Raises:
        ValueError: the batch cannot be divided among the reference number of processes.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference < 0 or (reference and cfg.SOLVER.IMS_PER_BATCH % reference):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among the {reference} processes of"
            " SOLVER.REFERENCE_WORLD_SIZE, for which it is intended; choose a multiple"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, processes)
    if scaled is cfg:
        return ""
    precise_bn = scaled.TEST.PRECISE_BN
    precise_bn.NUM_ITER = max(1, round(precise_bn.NUM_ITER * reference / processes))
    before = _values(cfg, SCALED_KEYS)
    cfg.SOLVER, cfg.TEST = scaled.SOLVER, scaled.TEST
    return _table(cfg, before, f"for {reference}", f"for {processes}")


def schedule_in_passes(cfg: CfgNode, images: int) -> str:
    """Scale a schedule to the length of ``MOCO.PASSES`` passes over the images, in proportion (in place).

    ``SOLVER.MAX_ITER`` becomes the number of iterations for these passes, but at least ``MOCO.MIN_ITERS``. Steps,
    warm-up and periods change in proportion. The current batch size is used, so call `scale_to_processes` first.
    Nothing changes if ``MOCO.PASSES`` is 0 or the schedule already has that length.

    Args:
        cfg: the config of the run.
        images: number of images in the training data.

    Returns:
        A table of the changes, or an empty string if there are none.
    """
    wanted = max(cfg.MOCO.MIN_ITERS, -(-cfg.MOCO.PASSES * images // cfg.SOLVER.IMS_PER_BATCH))
    if not cfg.MOCO.PASSES or wanted == cfg.SOLVER.MAX_ITER:
        return ""
    before, ratio = _values(cfg, TIMED_KEYS), wanted / cfg.SOLVER.MAX_ITER
    cfg.SOLVER.MAX_ITER = wanted
    # In a very short run, steps may coincide with each other or with the start or end of the run.
    cfg.SOLVER.STEPS = tuple(sorted({round(step * ratio) for step in cfg.SOLVER.STEPS} - {0, wanted}))
    cfg.SOLVER.WARMUP_ITERS = round(cfg.SOLVER.WARMUP_ITERS * ratio)
    cfg.SOLVER.CHECKPOINT_PERIOD = max(1, round(cfg.SOLVER.CHECKPOINT_PERIOD * ratio))
    if cfg.TEST.EVAL_PERIOD:
        cfg.TEST.EVAL_PERIOD = max(1, round(cfg.TEST.EVAL_PERIOD * ratio))
    passes = wanted * cfg.SOLVER.IMS_PER_BATCH / images
    return _table(cfg, before, "the config's", f"{passes:.4g} passes over {images} images")


def _table(cfg: CfgNode, before: dict[str, object], old: str, new: str) -> str:
    """Format a table of keys with their old and new values."""
    rows = [(key, before[key], value) for key, value in _values(cfg, tuple(before)).items()]
    return tabulate(rows, ("key", old, new), tablefmt="pipe", disable_numparse=True)


def _values(cfg: CfgNode, keys: Sequence[str]) -> dict[str, object]:
    return {key: reduce(CfgNode.__getitem__, key.split("."), cfg) for key in keys}
