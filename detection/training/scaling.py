"""Schedules for another number of processes, by the linear rule (Goyal et al., 2017, section 2.1), or in passes."""

from collections.abc import Sequence
from functools import reduce

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from tabulate import tabulate

# The paper's configs are for 8 GPUs.
PAPERS_PROCESSES = 8

# Everything that detectron2's rule changes, and the number of batches from which PreciseBN takes statistics.
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

# Settings counted in iterations. PreciseBN needs the same number of batches however long the run is.
TIMED_KEYS = (
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)


def scale_to_processes(cfg: CfgNode, processes: int) -> str:
    """Scale a schedule for ``SOLVER.REFERENCE_WORLD_SIZE`` processes to another number of them (in place).

    Each process keeps its number of images, so the batch and the learning rate change in proportion. Iterations and
    warm-up change inversely, and so do the batches of PreciseBN, which detectron2's rule leaves unchanged, so that it
    sees as many images as before. The reference becomes the number of processes. Nothing happens if it already is, or
    is 0.

    Returns:
        A table of the changes, or an empty string if there are none.

    Raises:
        ValueError: the batch cannot be divided among the reference's processes.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference < 0 or (reference and cfg.SOLVER.IMS_PER_BATCH % reference):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide among the {reference} processes of"
            " SOLVER.REFERENCE_WORLD_SIZE, for which it is meant; choose a multiple"
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
    """Change a schedule to the length of ``MOCO.PASSES`` over the images, in the same proportions (in place).

    ``SOLVER.MAX_ITER`` becomes the number of iterations that these passes take, at least ``MOCO.MIN_ITERS``; steps,
    warm-up and periods change in proportion. The current batch size counts, so call `scale_to_processes` first. Nothing
    happens if ``MOCO.PASSES`` is 0 or the schedule already has that length.

    Args:
        cfg: config of the run.
        images: number of images in the training data.

    Returns:
        A table of the changes, or an empty string if there are none.
    """
    wanted = max(cfg.MOCO.MIN_ITERS, -(-cfg.MOCO.PASSES * images // cfg.SOLVER.IMS_PER_BATCH))
    if not cfg.MOCO.PASSES or wanted == cfg.SOLVER.MAX_ITER:
        return ""
    before, ratio = _values(cfg, TIMED_KEYS), wanted / cfg.SOLVER.MAX_ITER
    cfg.SOLVER.MAX_ITER = wanted
    # In a very short run, steps may coincide with each other or with its ends.
    cfg.SOLVER.STEPS = tuple(sorted({round(step * ratio) for step in cfg.SOLVER.STEPS} - {0, wanted}))
    cfg.SOLVER.WARMUP_ITERS = round(cfg.SOLVER.WARMUP_ITERS * ratio)
    cfg.SOLVER.CHECKPOINT_PERIOD = max(1, round(cfg.SOLVER.CHECKPOINT_PERIOD * ratio))
    if cfg.TEST.EVAL_PERIOD:
        cfg.TEST.EVAL_PERIOD = max(1, round(cfg.TEST.EVAL_PERIOD * ratio))
    passes = wanted * cfg.SOLVER.IMS_PER_BATCH / images
    return _table(cfg, before, "the config's", f"{passes:.4g} passes over {images} images")


def _table(cfg: CfgNode, before: dict[str, object], old: str, new: str) -> str:
    """Show keys with their old and new values."""
    rows = [(key, before[key], value) for key, value in _values(cfg, tuple(before)).items()]
    return tabulate(rows, ("key", old, new), tablefmt="pipe", disable_numparse=True)


def _values(cfg: CfgNode, keys: Sequence[str]) -> dict[str, object]:
    return {key: reduce(CfgNode.__getitem__, key.split("."), cfg) for key in keys}
