"""The command ``mocodet pretrain``, which starts a run from parsed arguments."""

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
from .resuming import changed_settings, check_resumed
from .schedules import warmup_iterations
from .trainer import PretrainTrainer

logger = logging.getLogger("mocodet.pretrain")

CONFIG = "config.yaml"  # the config of the run, saved in OUTPUT_DIR


def read_config(args: argparse.Namespace) -> CfgNode:
    """Return the config specified on the command line; see `merge_config`."""
    cfg = get_cfg()
    merge_config(cfg, args.config_file, args.opts)
    return cfg


def start(cfg: CfgNode, *, resume: bool) -> None:
    """Set the values that a checked config leaves open (see `_decide`), freeze the config, and start logging."""
    _decide(cfg, resume)
    cfg.freeze()

    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    log_to(cfg.OUTPUT_DIR)


def announce(cfg: CfgNode) -> None:
    """Log the config of a run that is about to start, and any settings that have no effect."""
    logger.info(f"{comm.get_world_size()} process(es); config:\n{cfg.dump()}")
    if nothing := unused(cfg):
        logger.warning(f"settings of this config that have no effect: {'; '.join(nothing)}")


def _decide(cfg: CfgNode, resume: bool) -> None:
    """Resolve a negative SEED or SOLVER.WARMUP_ITERS and DATA.AUGMENT "auto"; a resumed run keeps its earlier values.

    A run that saved its config but no checkpoint is not considered resumed.
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
    """Pre-train with ``cfg`` in this process. All processes of a process group must call this function.

    Args:
        cfg: a config from `get_cfg`. It is checked and frozen.
        resume: whether to continue the run in ``OUTPUT_DIR``; see `PretrainTrainer.resume_or_start`.
        original: a checkpoint of the original code to continue from; see `PretrainTrainer.resume_or_start`.
        record: whether to save the command line of this process together with the config.
        allow_pipe: whether ``DATA.SHARDS`` may contain commands, which run in a shell (docs/shards.md).

    Returns:
        the path of the final checkpoint, ``OUTPUT_DIR/model_final.pth``.

    Raises:
        FileNotFoundError, ValueError: see `check_config`, `check_inputs` and `PretrainTrainer`.
        BlockingIOError: another process is training in OUTPUT_DIR.
        FileExistsError: ``resume`` is false, but OUTPUT_DIR contains the checkpoints of another run.
        FloatingPointError: training diverged.
    """
    if original and cfg.MODEL.WEIGHTS:
        raise ValueError(
            f"--resume-from {original} cannot be combined with MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r}: --resume-from"
            " continues a run, and MODEL.WEIGHTS starts a new run from an encoder (docs/warm_start.md)"
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
        if resume and (changed := changed_settings(cfg)):
            logger.warning(f"--resume: these settings differ from those of the earlier run: {changed}")
        # Save the config only now, so that an invalid run cannot overwrite the config of the run in this folder.
        if comm.is_main_process():
            with atomic_open(Path(cfg.OUTPUT_DIR, CONFIG), "w") as handle:
                handle.write(cfg.dump())
            if record:
                write_record(cfg.OUTPUT_DIR)
        trainer.train()
    return Path(cfg.OUTPUT_DIR, "model_final.pth")


def run(args: argparse.Namespace) -> None:
    """Train according to the command line, in one of the launched processes."""
    cfg = read_config(args)
    pretrain(cfg, resume=args.resume, original=args.resume_from, record=True, allow_pipe=args.allow_pipe)


def export(args: argparse.Namespace) -> None:
    """Export the last checkpoint in ``OUTPUT_DIR`` to the file given with ``--export``, and do nothing else.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        ValueError: torchrun started multiple processes; see also `merge_config`, `check_method` and `export_file`.
    """
    if dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError(f"torchrun started --export in {os.environ['WORLD_SIZE']} processes; run it without torchrun")
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
