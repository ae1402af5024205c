"""The command ``mocodet train``: fine-tune a detector, or evaluate one."""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from mocodet.common.files import atomic_open
from mocodet.common.launch import launch, merge_config, refuse_nccl_on_cpu

from ..config import add_moco_config
from ..data import register_datasets
from ..data.mapper import check_augmentation
from ..densepose import add_densepose_keys
from ..evaluation import check_ground_truth
from .checkpoint import MocoDetCheckpointer
from .preflight import check_datasets
from .scaling import PAPERS_PROCESSES, refuse_another_scale, scale_to_processes
from .trainer import AMP_DTYPES, Trainer

logger = logging.getLogger(__name__)

MAKE_WEIGHTS = """These two commands make MoCo weights (the first one pre-trains, give it your images as DATA.ROOT):

    tools/pretrain_net.py --config-file configs/pretrain/{recipe} \\
        DATA.ROOT path/to/images OUTPUT_DIR output/{name}
    tools/convert_pretrain_to_detectron2.py output/{name}/model_final.pth {weights}

or name a file that you have: MODEL.WEIGHTS path/to/weights (a pre-training checkpoint will do, converted or not), or
the published weights of a ResNet-50: MODEL.WEIGHTS moco://v2_200ep (moco://v2_800ep, moco://v1_200ep)"""


def setup(args: argparse.Namespace) -> CfgNode:
    """Make the frozen config from file and command line, start the log, and refuse what cannot end well.

    Raises:
        FileNotFoundError: there is no such config, weights file or data.
        ValueError: the config contradicts itself, the data or the machine.
    """
    cfg = get_cfg()
    add_moco_config(cfg)
    add_densepose_keys(cfg, args.config_file)
    args.config_file = str(merge_config(cfg, args.config_file, args.opts))
    scaled = "" if args.eval_only else scale_schedule(cfg, asked_for=args.scale_to_gpus)
    asked_for = cfg.MODEL.DEVICE
    if asked_for.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="mocodet")
    # First of all what may refuse the run: starting it replaces the config that an earlier run left in the folder.
    check_run(cfg, resume=args.resume, eval_only=args.eval_only)
    if args.eval_only:
        start_evaluation(cfg, args)
    else:
        default_setup(cfg, args)
    if scaled:
        logger.info(f"Scaled the schedule to {comm.get_world_size()} processes by the linear rule:\n\n{scaled}\n")
    if asked_for != cfg.MODEL.DEVICE:
        logger.warning(f"MODEL.DEVICE is {asked_for}, but CUDA is not available: running on the CPU")
    return cfg


def check_run(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Register the data sets and refuse a run that cannot end well, before it leaves anything.

    Raises:
        FileNotFoundError: there are no such weights or data.
        ValueError: the config contradicts itself, the data, the machine or the run to be resumed.
    """
    check_config(cfg)
    if not eval_only:
        check_augmentation(cfg)
        check_batch(cfg)
        if resume:
            check_resumed_scale(cfg)
    check_weights(cfg, resume=resume, eval_only=eval_only)
    register_datasets(cfg)
    check_datasets(cfg, training=not eval_only)
    for name in cfg.DATASETS.TEST:
        check_ground_truth(cfg, name)


def start_evaluation(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start the log and seed the generators as ``default_setup`` does, but save the config as ``eval_config.yaml``.

    ``config.yaml`` remains that of the training in the same folder: its schedule tells how the run can be resumed.
    """
    rank = comm.get_rank()
    for name in ("fvcore", "detectron2"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name)
    logger.info(f"Environment:\n{collect_env_info()}\n\nCommand line: {args}\n\nConfig:\n{cfg.dump()}")
    if comm.is_main_process():
        with atomic_open(Path(cfg.OUTPUT_DIR) / "eval_config.yaml", "w", encoding="utf-8") as handle:
            handle.write(cfg.dump())
    seed_all_rng(cfg.SEED + rank if cfg.SEED >= 0 else None)


def check_config(cfg: CfgNode) -> None:
    """Refuse settings that this trainer would otherwise ignore or fail on later.

    Raises:
        ValueError: see the messages.
    """
    if cfg.MOCO.AMP_DTYPE not in AMP_DTYPES:
        raise ValueError(f"MOCO.AMP_DTYPE must be one of {', '.join(AMP_DTYPES)}, got {cfg.MOCO.AMP_DTYPE!r}")
    if cfg.TEST.AUG.ENABLED:
        raise ValueError("TEST.AUG.ENABLED: test-time augmentation is not supported; set it to False")
    if cfg.SOLVER.AMP.ENABLED and cfg.MOCO.AMP_DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        raise ValueError("MOCO.AMP_DTYPE float16 needs CUDA; use bfloat16 on a CPU")
    if cfg.MODEL.DEVICE == "cpu":
        refuse_nccl_on_cpu()


def check_batch(cfg: CfgNode) -> None:
    """Refuse a batch that the processes and their micro-batches cannot share equally.

    Raises:
        ValueError: the message says what would fit.
    """
    workers, micro_batches = comm.get_world_size(), cfg.MOCO.ACCUMULATION
    if micro_batches < 1:
        raise ValueError(f"MOCO.ACCUMULATION must be at least 1 (no accumulation), got {micro_batches}")
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % (workers * micro_batches):
        among = f"{workers} processes" + (f" of {micro_batches} micro-batches each" if micro_batches > 1 else "")
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide among {among};"
            f" choose a multiple of {workers * micro_batches}"
        )


def scale_schedule(cfg: CfgNode, *, asked_for: bool) -> str:
    """Scale the schedule to the processes that run (in place) if the command or the config asks for it.

    Args:
        cfg: not frozen yet, so that everything which reads it later sees the scaled values, the saved copy too.
        asked_for: whether the command does; a config does by its ``SOLVER.REFERENCE_WORLD_SIZE``.

    Returns:
        A table of what changed, or an empty string.
    """
    if asked_for and cfg.SOLVER.REFERENCE_WORLD_SIZE == 0:
        cfg.SOLVER.REFERENCE_WORLD_SIZE = PAPERS_PROCESSES
    return scale_to_processes(cfg, comm.get_world_size())


def check_resumed_scale(cfg: CfgNode) -> None:
    """Refuse to continue the run in ``OUTPUT_DIR`` on a schedule of another scale.

    Raises:
        ValueError: see :func:`.scaling.refuse_another_scale`.
    """
    saved = Path(cfg.OUTPUT_DIR) / "config.yaml"
    # On the main process alone: it is about to overwrite the file.
    if comm.is_main_process() and saved.is_file() and (saved.parent / "last_checkpoint").is_file():
        refuse_another_scale(cfg, saved)


def check_weights(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Refuse a ``MODEL.WEIGHTS`` that is a file and is not there, unless the run resumes from a checkpoint of its own.

    Raises:
        FileNotFoundError: where MoCo weights are wanted, the message says which two commands make them.
    """
    weights = cfg.MODEL.WEIGHTS
    path = Path(weights.partition("?")[0])  # detectron2 takes options after a question mark
    if not weights or "://" in weights or path.is_file():
        return
    if resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file():
        return
    message = f"MODEL.WEIGHTS names {weights}, which does not exist."
    if path.suffix == ".pkl" and not eval_only:  # converted weights; anything else the user must have had
        depth = cfg.MODEL.RESNETS.DEPTH
        recipe = "moco_v2_R_50_200ep.yaml" if depth == 50 else f"moco_v2_R_50_200ep.yaml MODEL.ARCH resnet{depth}"
        message += "\n" + MAKE_WEIGHTS.format(weights=path, recipe=recipe, name=path.stem)
    raise FileNotFoundError(message)


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint of ``OUTPUT_DIR``, without training.

    Exits with status 1 when the results are not the ``TEST.EXPECTED_RESULTS``.
    """
    model = Trainer.build_model(cfg)
    checkpointer = MocoDetCheckpointer(model, cfg.OUTPUT_DIR, whole_detector=True)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        logger.warning(
            "--eval-only, but MODEL.WEIGHTS is empty: this evaluates a detector with random weights. To evaluate a"
            f" fine-tuned one name it, for example  MODEL.WEIGHTS {cfg.OUTPUT_DIR}/model_final.pth"
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do, in one process of the launched ones, what the command line asks for; return the evaluation's results."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def main(args: argparse.Namespace) -> None:
    """Do what the command line asks for, in as many processes as it asks for."""
    launch(run, args)
