"""The command ``mocodet pretrain``: from parsed arguments to a run."""

import argparse
import logging
import os
from pathlib import Path

import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode

from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open
from mocodet.common.launch import launch, merge_config

from .config import check_config, get_cfg, unused
from .interchange import export
from .trainer import PretrainTrainer


def setup(args: argparse.Namespace) -> CfgNode:
    """Read and check the config and start logging; a negative SEED is replaced by a drawn one.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: an unknown key or a value that no recipe can mean.
    """
    cfg = get_cfg()
    merge_config(cfg, args.config_file, args.opts)
    check_config(cfg)
    if cfg.SEED < 0:
        earlier = seed_of_earlier_run(cfg.OUTPUT_DIR) if args.resume else None
        cfg.SEED = comm.shared_random_seed() if earlier is None else earlier
    cfg.freeze()

    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    for name in ("mocodet", "fvcore", "detectron2"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    logging.getLogger("mocodet.pretrain").info(f"{comm.get_world_size()} process(es); config:\n{cfg.dump()}")
    if nothing := unused(cfg):
        logging.getLogger("mocodet.pretrain").warning(f"this config sets, to no effect: {'; '.join(nothing)}")
    return cfg


def config_path(output_dir: str) -> Path:
    """Return where a run leaves the config that it ran with."""
    return Path(output_dir, "config.yaml")


def seed_of_earlier_run(output_dir: str) -> int | None:
    """Return the seed that the run in ``output_dir`` drew, or None when there is none."""
    path = config_path(output_dir)
    return CfgNode.load_yaml_with_base(str(path))["SEED"] if path.is_file() else None


def train(cfg: CfgNode, *, resume: bool, original: str = "") -> None:
    """Train in one process of the launched ones; the arguments are those of `PretrainTrainer.resume_or_start`."""
    trainer = PretrainTrainer(cfg)
    trainer.resume_or_start(resume, original)
    # Not before: a run that was refused must not overwrite the config of the one that stands there.
    if comm.is_main_process():
        with atomic_open(config_path(cfg.OUTPUT_DIR), "w") as handle:
            handle.write(cfg.dump())
    trainer.train()


def run(args: argparse.Namespace) -> None:
    """Train, in one process of the launched ones, as the command line asks."""
    train(setup(args), resume=args.resume, original=args.resume_from)


def run_export(args: argparse.Namespace) -> None:
    """Write the file of ``--export``; log to the terminal and leave nothing else behind.

    Raises:
        FileNotFoundError: there is no such config, or no checkpoint.
        ValueError: several processes of torchrun; see `merge_config` and `export` otherwise.
    """
    if dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError(f"--export in {os.environ['WORLD_SIZE']} processes of torchrun; run it without torchrun")
    cfg = get_cfg()
    merge_config(cfg, args.config_file, args.opts)
    setup_logger(name="mocodet")
    export(cfg, args.export)


def main(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    if args.export is None:
        launch(run, args)
        return
    with errors_in_one_line():
        run_export(args)
