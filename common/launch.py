"""Command-line habits and process start-up that `mocodet-pretrain` and `mocodet-train` have in common."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mocodet import configs


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the flags of detectron2's own ``train_net.py`` that both commands understand."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path to a YAML config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="GPUs per machine; on a machine without one, CPU processes"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="rank of this machine")
    parser.add_argument(
        "--dist-url", default="auto", help="where the processes meet, for example tcp://host:port; 'auto': this machine"
    )
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs=argparse.REMAINDER,
        help="config keys to override, given in pairs at the end of the command",
    )
    return parser


# What bad input raises: told in one line. With MOCODET_TRACEBACK=1 in the environment the traceback is shown.
USER_ERRORS = (FileNotFoundError, FileExistsError, ValueError, FloatingPointError)


def merge_config(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> Path:
    """Merge a config file and KEY VALUE pairs into ``cfg``; return the file's path.

    Args:
        cfg: all keys with their defaults; changed in place.
        config_file: a path, or the name of one of mocodet's own configs.
        opts: ``KEY, VALUE, KEY, VALUE, ...``.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: an empty file, an unknown key, a value of the wrong type, or a KEY without a VALUE.
    """
    path = configs.locate(config_file)
    if not path.read_text(encoding="utf-8").strip():
        raise ValueError(f"{path} is empty; expected a YAML config")
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)  # a YAML file may ask for code to be run
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError) as error:  # yacs's way of refusing
        raise ValueError(f"{path} with {' '.join(opts) or 'no overrides'}: {error.args[0]}") from error
    return path


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in ``args.num_gpus`` processes on each of ``args.num_machines`` machines.

    Uses NCCL where CUDA is available and gloo elsewhere, as detectron2's launcher does. On a CPU the cores are
    divided between the processes; left alone, every process would start one thread for every core.

    Raises:
        SystemExit: one of ``USER_ERRORS`` was raised in the only process; its message is the exit status.
        torch.multiprocessing.ProcessRaisedException: an error in one of several processes, with its traceback.
    """
    try:
        _start(main, args)
    except USER_ERRORS as error:
        if os.environ.get("MOCODET_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


def _start(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    for flag in ("num_gpus", "num_machines"):
        if getattr(args, flag) < 1:
            raise ValueError(f"--{flag.replace('_', '-')} must be at least 1, got {getattr(args, flag)}")
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}")
    detectron2_launch(
        _run_in_process,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(main, args),
    )


def _run_in_process(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    if not torch.cuda.is_available() and args.num_gpus > 1:
        torch.set_num_threads(threads_for_each(args.num_gpus))
    main(args)


def threads_for_each(processes: int) -> int:
    """Divide the cores that this process may use between so many others; at least one thread for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def refuse_nccl_on_cpu() -> None:
    """Refuse a run on the CPU whose processes are connected by NCCL, as they are on a machine with CUDA.

    Raises:
        ValueError: the message says how to run it.
    """
    if comm.get_world_size() > 1 and dist.get_backend() == "nccl":
        raise ValueError(
            "MODEL.DEVICE cpu with several processes on a machine with CUDA: they are connected by NCCL, which cannot"
            " move CPU tensors; hide the GPUs (CUDA_VISIBLE_DEVICES=) or use one process"
        )


def distribute(model: nn.Module) -> nn.Module:
    """Wrap ``model`` in ``DistributedDataParallel`` when there is more than one process; else return it unchanged.

    ``device_ids`` is given for CUDA models only: on CPU models DDP refuses it. Buffers are not broadcast, as in
    detectron2: batch-norm statistics are either synchronised by the norm itself or meant to differ (Shuffling BN).
    """
    if comm.get_world_size() == 1:
        return model
    on_cuda = next(model.parameters()).is_cuda
    device_ids = [comm.get_local_rank()] if on_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)
