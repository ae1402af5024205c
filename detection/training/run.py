"""The command ``mocodet train``: fine-tunes or evaluates a detector."""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from mocodet.common.checkpoint import refuse_other_run
from mocodet.common.files import atomic_open
from mocodet.common.launch import check_output, claim_output, launch
from mocodet.common.logs import log_to

from ..config import merged_config
from ..data import register_datasets
from ..data.fraction import training_records
from ..modeling.build import fall_back_to_cpu
from .checkpoint import MocoDetCheckpointer
from .preflight import check_run
from .resuming import seed_of_run
from .scaling import PAPERS_PROCESSES, scale_to_processes, schedule_in_passes
from .trainer import Trainer

logger = logging.getLogger(__name__)


def read_config(args: argparse.Namespace) -> CfgNode:
    """Return the unfrozen config from the file and the command line.

    Raises:
        FileNotFoundError, ValueError: the config does not exist or is malformed.
    """
    cfg, path = merged_config(args.config_file, args.opts)
    args.config_file = str(path)
    if args.scale_to_gpus and cfg.SOLVER.REFERENCE_WORLD_SIZE == 0:
        cfg.SOLVER.REFERENCE_WORLD_SIZE = PAPERS_PROCESSES
    return cfg


def setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Complete and freeze the config from `read_config`, start logging, register the data sets and check the run.

    Raises:
        FileNotFoundError, ValueError: see `check_run`.
    """
    # Scale before freezing the config, so that all later code and the saved copy use the scaled values.
    scaled = "" if args.eval_only else scale_to_processes(cfg, comm.get_world_size())
    without_cuda = fall_back_to_cpu(cfg)
    log_to(None)
    register_datasets(cfg)
    # Check first, because starting the run replaces the config of an earlier run in the folder.
    check_run(cfg, resume=args.resume, eval_only=args.eval_only)
    in_passes = ""
    if cfg.MOCO.PASSES and not args.eval_only:
        in_passes = schedule_in_passes(cfg, len(training_records(cfg)))
    if cfg.SEED < 0 and not args.eval_only:  # the saved config contains the seed
        cfg.SEED = seed_of_run(cfg)
    cfg.freeze()
    start_run(cfg, args)
    if scaled:
        logger.info(
            f"Scaled the schedule to {comm.get_world_size()} processes with the linear scaling rule:\n\n{scaled}\n"
        )
    if in_passes:
        logger.info(f"The schedule, scaled to the length of the run:\n\n{in_passes}\n")
    if without_cuda:
        logger.warning(without_cuda)


def start_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start logging, save the config and seed the generators, as detectron2's ``default_setup`` does.

    ``default_setup`` parses the complete config again for each of the three keys that it reads, which takes half a
    second. An evaluation saves its config as ``eval_config.yaml``. ``config.yaml`` in the same folder remains that of
    the training run, because resuming the run requires its schedule.
    """
    rank, config = comm.get_rank(), cfg.dump()
    log_to(cfg.OUTPUT_DIR)
    logger.info(
        f"Rank of current process: {rank}. World size: {comm.get_world_size()}\n\n"
        f"Environment:\n{collect_env_info()}\n\nCommand line: {args}\n\nConfig:\n{config}"
    )
    if comm.is_main_process():
        name = "eval_config.yaml" if args.eval_only else "config.yaml"
        with atomic_open(Path(cfg.OUTPUT_DIR, name), "w", encoding="utf-8") as handle:
            handle.write(config)
    seed_all_rng(cfg.SEED + rank if cfg.SEED >= 0 else None)
    if not args.eval_only:  # benchmarking algorithms pays off for the many images of a training run
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS`` or, with ``resume``, the last checkpoint in ``OUTPUT_DIR``, without training.

    Exits with status 1 if the results differ from ``TEST.EXPECTED_RESULTS``.
    """
    model = Trainer.build_model(cfg)
    checkpointer = MocoDetCheckpointer(model, cfg.OUTPUT_DIR, whole_detector=True)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        logger.warning(
            "--eval-only is set, but MODEL.WEIGHTS is empty: evaluating a detector with random weights. To evaluate a"
            f" fine-tuned detector, specify its checkpoint, for example  MODEL.WEIGHTS {cfg.OUTPUT_DIR}/model_final.pth"
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the requested command in one of the launched processes, and return the evaluation results."""
    cfg = read_config(args)
    if args.eval_only:
        check_output(cfg.OUTPUT_DIR)
        setup(cfg, args)
        return evaluate(cfg, resume=args.resume)
    with claim_output(cfg.OUTPUT_DIR):
        if not args.resume:
            refuse_other_run(cfg.OUTPUT_DIR)
        setup(cfg, args)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


def main(args: argparse.Namespace) -> None:
    """Run the requested command in the requested number of processes."""
    launch(run, args, read_config)
