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

CONFIG = "config.yaml"  # in OUTPUT_DIR: what the run there ran with


def read_config(args: argparse.Namespace) -> CfgNode:
    """Return the config that the command line asks for; see `merge_config`."""
    cfg = get_cfg()
    merge_config(cfg, args.config_file, args.opts)
    return cfg


def start(cfg: CfgNode, *, resume: bool) -> None:
    """Decide what a checked config leaves open (see `_decide`), freeze it, and start logging."""
    _decide(cfg, resume)
    cfg.freeze()

    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    log_to(cfg.OUTPUT_DIR)


def announce(cfg: CfgNode) -> None:
    """Log the config of a run that nothing keeps from starting, and what it sets to no effect."""
    logger = logging.getLogger("mocodet.pretrain")
    logger.info(f"{comm.get_world_size()} process(es); config:\n{cfg.dump()}")
    if nothing := unused(cfg):
        logger.warning(f"this config sets, to no effect: {'; '.join(nothing)}")


def _decide(cfg: CfgNode, resume: bool) -> None:
    """Put values for a negative SEED or SOLVER.WARMUP_ITERS and DATA.AUGMENT "auto": those of a run that is resumed.

    An attempt that left its config and no checkpoint is not resumed.
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
    """Pre-train as ``cfg`` asks, in this process, which may be one of a process group; every one of it must call.

    Args:
        cfg: of `get_cfg`; it is checked and frozen.
        resume: whether to continue the run in ``OUTPUT_DIR``; see `PretrainTrainer.resume_or_start`.
        original: a checkpoint of the original code to continue from; see there.
        record: whether to keep this process's command line beside the config, as that of the run.
        allow_pipe: whether ``DATA.SHARDS`` may name commands, which run in a shell (docs/shards.md).

    Returns:
        the checkpoint of the end, ``OUTPUT_DIR/model_final.pth``.

    Raises:
        FileNotFoundError, ValueError: see `check_config`, `check_inputs` and `PretrainTrainer`.
        BlockingIOError: another process trains in OUTPUT_DIR.
        FileExistsError: not ``resume``, and OUTPUT_DIR holds the checkpoints of another run.
        FloatingPointError: training diverged.
    """
    if original and cfg.MODEL.WEIGHTS:
        raise ValueError(
            f"--resume-from {original} with MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r}; expected one of the two: a whole run"
            " that goes on, or an encoder that a new run starts from (docs/warm_start.md)"
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
        # Not before: a run that was refused must not overwrite the config of the one that stands there.
        if comm.is_main_process():
            with atomic_open(Path(cfg.OUTPUT_DIR, CONFIG), "w") as handle:
                handle.write(cfg.dump())
            if record:
                write_record(cfg.OUTPUT_DIR)
        trainer.train()
    return Path(cfg.OUTPUT_DIR, "model_final.pth")


def run(args: argparse.Namespace) -> None:
    """Train, in one process of the launched ones, as the command line asks."""
    cfg = read_config(args)
    pretrain(cfg, resume=args.resume, original=args.resume_from, record=True, allow_pipe=args.allow_pipe)


def export(args: argparse.Namespace) -> None:
    """Write the file of ``--export`` from the last checkpoint of ``OUTPUT_DIR``; leave nothing else behind.

    Raises:
        FileNotFoundError: there is no such config, or no checkpoint.
        ValueError: several processes of torchrun; see `merge_config`, `check_method` and `export_file` otherwise.
    """
    if dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError(f"--export in {os.environ['WORLD_SIZE']} processes of torchrun; run it without torchrun")
    cfg = read_config(args)
    setup_logger(name="mocodet")
    check_method(cfg.METHOD)
    export_file(last_checkpoint(cfg.OUTPUT_DIR), args.export)


def main(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    if args.export is None:
        launch(run, args, read_config)
    else:
        with errors_in_one_line():
            export(args)
