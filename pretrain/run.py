"""The command ``mocodet pretrain``: from parsed arguments to a run."""

import argparse
import logging
import os
from pathlib import Path

import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import holds_checkpoint, last_checkpoint
from mocodet.common.config.bases import read_settings
from mocodet.common.config.merge import merge_config
from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open
from mocodet.common.launch import claim_output, launch
from mocodet.common.logs import log_to
from mocodet.common.record import write_record

from .build import choose_augment
from .checkpoint import VIEWS_BEFORE
from .config import check_config, get_cfg, unused
from .interchange import check_method, export_file
from .preflight import check_inputs
from .resuming import check_resumed
from .schedules import warmup_iterations
from .trainer import PretrainTrainer

CONFIG = "config.yaml"  # in OUTPUT_DIR: the config of its run


def read_config(args: argparse.Namespace) -> CfgNode:
    """Return the config from the command line; see `merge_config`."""
    cfg = get_cfg()
    merge_config(cfg, args.config_file, args.opts)
    return cfg


def start(cfg: CfgNode, *, resume: bool) -> None:
    """Set the values that a checked config leaves open (see `_decide`), freeze it, and start logging."""
    _decide(cfg, resume)
    cfg.freeze()

    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    log_to(cfg.OUTPUT_DIR)


def announce(cfg: CfgNode) -> None:
    """Log the config of a run that is ready to start, and its settings without effect."""
    logger = logging.getLogger("mocodet.pretrain")
    logger.info(f"{comm.get_world_size()} process(es); config:\n{cfg.dump()}")
    if nothing := unused(cfg):
        logger.warning(f"settings of this config that have no effect: {'; '.join(nothing)}")


def _decide(cfg: CfgNode, resume: bool) -> None:
    """Replace a negative SEED or SOLVER.WARMUP_ITERS and DATA.AUGMENT "auto" by values, in a resumed run by its own.

    An attempt that left its config but no checkpoint is not resumed.
    """
    file = Path(cfg.OUTPUT_DIR, CONFIG)
    resumed = resume and file.is_file() and holds_checkpoint(cfg.OUTPUT_DIR)
    earlier = read_settings(file).content if resumed else None
    if cfg.SEED < 0:
        cfg.SEED = earlier["SEED"] if earlier else comm.shared_random_seed()
    if cfg.DATA.AUGMENT == "auto":
        cfg.DATA.AUGMENT = earlier["DATA"].get("AUGMENT", VIEWS_BEFORE["augment"]) if earlier else choose_augment(cfg)
    if cfg.SOLVER.WARMUP_ITERS < 0:
        cfg.SOLVER.WARMUP_ITERS = earlier["SOLVER"].get("WARMUP_ITERS", 0) if earlier else warmup_iterations(cfg)


def pretrain(
    cfg: CfgNode, *, resume: bool = False, original: str = "", record: bool = False, allow_pipe: bool = False
) -> Path:
    """Pre-train with ``cfg`` in this process; all processes of a process group must call it.

    Args:
        cfg: from `get_cfg`; it is checked and frozen.
        resume: whether to continue the run in ``OUTPUT_DIR``; see `PretrainTrainer.resume_or_start`.
        original: a checkpoint of the original code to continue from; see `PretrainTrainer.resume_or_start`.
        record: whether to save this process's command line with the config, as that of the run.
        allow_pipe: whether ``DATA.SHARDS`` may name commands, which run in a shell (docs/shards.md).

    Returns:
        the final checkpoint, ``OUTPUT_DIR/model_final.pth``.

    Raises:
        FileNotFoundError, ValueError: see `check_config`, `check_inputs` and `PretrainTrainer`.
        BlockingIOError: another process trains in OUTPUT_DIR.
        FileExistsError: not ``resume``, and OUTPUT_DIR holds the checkpoints of another run.
        FloatingPointError: training diverged.
    """
    if original and cfg.MODEL.WEIGHTS:
        raise ValueError(
            f"--resume-from {original} with MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r}; expected one of the two: a whole run"
            " to continue, or an encoder from which a new run starts (docs/warm_start.md)"
        )
    check_config(cfg)
    check_inputs(cfg, resume=resume, original=original)
    if resume:
        check_resumed(cfg)
    with claim_output(cfg.OUTPUT_DIR):
        start(cfg, resume=resume)
        trainer = PretrainTrainer(cfg, allow_pipe=allow_pipe)
        trainer.resume_or_start(resume, original)
        announce(cfg)
        # Not earlier: a refused run must not overwrite the config of the run in this folder.
        if comm.is_main_process():
            with atomic_open(Path(cfg.OUTPUT_DIR, CONFIG), "w") as handle:
                handle.write(cfg.dump())
            if record:
                write_record(cfg.OUTPUT_DIR)
        trainer.train()
    return Path(cfg.OUTPUT_DIR, "model_final.pth")


def run(args: argparse.Namespace) -> None:
    """Train as the command line asks, in one of the launched processes."""
    cfg = read_config(args)
    pretrain(cfg, resume=args.resume, original=args.resume_from, record=True, allow_pipe=args.allow_pipe)


def export(args: argparse.Namespace) -> None:
    """Write the file of ``--export`` from the last checkpoint of ``OUTPUT_DIR``, and nothing else.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        ValueError: torchrun started several processes; see also `merge_config`, `check_method` and `export_file`.
    """
    if dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError(f"--export in {os.environ['WORLD_SIZE']} processes of torchrun; run it without torchrun")
    cfg = read_config(args)
    setup_logger(name="mocodet")
    check_method(cfg.METHOD)
    export_file(last_checkpoint(cfg.OUTPUT_DIR), args.export)


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.export is None:
        launch(run, args, read_config)
    else:
        with errors_in_one_line():
            export(args)
