"""A schedule made for another number of processes, scaled by the linear rule (Goyal et al., 2017, section 2.1)."""

from functools import reduce

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from tabulate import tabulate

# The configs are the paper's: for 8 GPUs.
PAPERS_PROCESSES = 8

# Everything that detectron2's rule changes, and the batches from which PreciseBN takes statistics.
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


def scale_to_processes(cfg: CfgNode, processes: int) -> str:
    """Scale a schedule for ``SOLVER.REFERENCE_WORLD_SIZE`` processes to another number of them (in place).

    Each process keeps its number of images, so the batch and with it the learning rate change in proportion; iterations
    and warm-up change inversely, and so do the batches of PreciseBN, which detectron2's rule leaves alone: it sees as
    many images as before. Does nothing where the reference is 0 or the number of processes already; it is the
    latter afterwards.

    Returns:
        A table of what changed, or an empty string where nothing did.

    Raises:
        ValueError: the batch cannot be divided among the reference's processes.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference < 0 or (reference and cfg.SOLVER.IMS_PER_BATCH % reference):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide among the {reference} processes of"
            " SOLVER.REFERENCE_WORLD_SIZE, for which it is meant; it must be a multiple"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, processes)
    if scaled is cfg:
        return ""
    precise_bn = scaled.TEST.PRECISE_BN
    precise_bn.NUM_ITER = max(1, round(precise_bn.NUM_ITER * reference / processes))
    before = _values(cfg)
    cfg.SOLVER, cfg.TEST = scaled.SOLVER, scaled.TEST
    rows = [(key, before[key], value) for key, value in _values(cfg).items()]
    return tabulate(rows, ("key", f"for {reference}", f"for {processes}"), tablefmt="pipe", disable_numparse=True)


def _values(cfg: CfgNode) -> dict[str, object]:
    return {name: reduce(CfgNode.__getitem__, name.split("."), cfg) for name in SCALED_KEYS}
