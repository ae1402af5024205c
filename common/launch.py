"""Launches the processes of pre-training and detection runs."""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from .allocator import keep_freed_memory
from .cores import threads_for_each
from .errors import USER_ERRORS, errors_in_one_line, message_of
from .files import remove_leftovers, writing_fault
from .imports import import_modules
from .locks import claim
from .mishaps import mishaps_told
from .status import FAILED, STOPPED, note_end
from .stopping import Stopped, passed_on
from .tether import end_with_parent

# NCCL aborts a waiting process without naming the process that it waits for. The small gloo collective of
# `StopWhenAsked` starts a step later and must time out first. Its error reaches only processes that are not waiting for
# their GPU.
NCCL_WAITS_LONGER = timedelta(minutes=1)
LONGEST_TRACEBACK = 1 << 18  # bytes

# Newer PyTorch versions warn about the old name.
_SYNCS = "forward_sync_buffers"
BUFFERS_STAY: dict[str, Any] = {
    _SYNCS if _SYNCS in signature(DistributedDataParallel).parameters else "broadcast_buffers": False
}


class ReportedError(Exception):
    """Carries one of ``USER_ERRORS`` from a spawned process to its parent. Its text is the error message."""


def launch(
    main: Callable[[argparse.Namespace], object],
    args: argparse.Namespace,
    read_config: Callable[[argparse.Namespace], CfgNode],
) -> None:
    """Run ``main(args)`` in ``args.num_gpus`` processes on each of ``args.num_machines`` machines, or under torchrun.

    torchrun starts the processes itself, so under torchrun ``main`` runs in the current process.

    The processes communicate with NCCL if CUDA is available, and with gloo otherwise, as in detectron2's launcher.
    Running multiple processes without CUDA raises an error unless the config sets ``MODEL.DEVICE cpu``. On a CPU, the
    cores are divided among the processes, because by default every process would start one thread per core.

    Args:
        main: the function to run, defined at the top level of a module.
        args: the parsed command line.
        read_config: reads the config. `main` reads it again in each process.

    Raises:
        SystemExit: one of ``USER_ERRORS`` was raised, with its message as the exit status (under torchrun, in every
            process that raised it), or one of multiple processes was killed.
        torch.multiprocessing.ProcessRaisedException: one of multiple processes raised another error, which is included
            with its traceback.
    """
    with errors_in_one_line():
        start = _join_torchrun if dist.is_torchelastic_launched() else _start
        start(partial(_import_and_run, main), args, partial(_import_and_run, read_config))


def _start(
    main: Callable[[argparse.Namespace], object],
    args: argparse.Namespace,
    read_config: Callable[[argparse.Namespace], Any],
) -> None:
    """Start this machine's processes with detectron2's launcher."""
    gpus, machines, rank, url = args.num_gpus, args.num_machines, args.machine_rank, args.dist_url
    if torch.cuda.is_available() and gpus > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus is {gpus}, but this machine has {torch.cuda.device_count()} GPUs; lower --num-gpus"
        )
    start = partial(detectron2_launch, num_machines=machines, machine_rank=rank, dist_url=url)
    if gpus * machines == 1:
        start(_run_in_process, 1, args=(main, args))
        return
    cfg = read_config(args)
    if not torch.cuda.is_available():
        _check_cpu_is_meant(cfg, gpus * machines, "omit --num-gpus and --num-machines")
    timeout = collective_timeout(cfg)
    with passed_on() as signals:
        try:
            start(_run_in_process, gpus, args=(main, args, timeout), timeout=_timeout_of_group(timeout))
        except (ProcessExitedException, ProcessRaisedException) as error:
            if signals:
                note_end(cfg.OUTPUT_DIR, STOPPED, signal.Signals(signals[0]).name)
                print("interrupted", file=sys.stderr, flush=True)  # replaces the errors that follow
                sys.exit(128 + signals[0])
            told = _told(error, gpus)
            note_end(cfg.OUTPUT_DIR, FAILED, told or str(error).strip().rpartition("\n")[2])
            if not told and isinstance(error, ProcessExitedException):
                sys.exit(error.exit_code)  # it has already printed the cause
            if not told:
                raise
            sys.exit(f"error: {told}")


def _told(error: ProcessExitedException | ProcessRaisedException, processes: int) -> str:
    """Return a one-line reason why one of multiple processes ended.

    The text is empty if the cause is a bug in the program or has already been printed.
    """
    if isinstance(error, ProcessRaisedException):
        # Only the text of the traceback is transferred, and it ends with the error.
        _, reported, message = str(error).rpartition(f"{ReportedError.__module__}.{ReportedError.__qualname__}: ")
        return message.rstrip() if reported else ""
    if error.signal_name is None:
        return ""
    because = "memory ran out. Use fewer processes, or fewer or smaller images"
    if error.signal_name == signal.SIGABRT.name:  # of NCCL's watchdog
        because = "it timed out waiting for a process that hangs or was stopped. See above, and end remaining processes"
    killed = f"process {error.error_index} of {processes} was killed ({error.signal_name})"
    return f"{killed}; unless someone killed it, {because}"


def collective_timeout(cfg: CfgNode) -> timedelta:
    """Return how long the processes of a run wait for each other, as set by the config key COLLECTIVE_TIMEOUT.

    Raises:
        ValueError: the timeout is shorter than a second.
    """
    if cfg.COLLECTIVE_TIMEOUT < 1:
        raise ValueError(f"COLLECTIVE_TIMEOUT is {cfg.COLLECTIVE_TIMEOUT}; expected at least 1 second")
    return timedelta(seconds=cfg.COLLECTIVE_TIMEOUT)


def _timeout_of_group(timeout: timedelta) -> timedelta:
    return timeout + NCCL_WAITS_LONGER if torch.cuda.is_available() else timeout


def _bound_other_group(timeout: timedelta) -> None:
    """Set the same timeout for the group with which detectron2 sends objects, if that is a separate group."""
    if dist.get_backend() == "nccl":
        comm._get_global_gloo_group()._get_backend(torch.device("cpu"))._set_default_timeout(timeout)


def _run_in_process(
    main: Callable[[argparse.Namespace], object], args: argparse.Namespace, timeout: timedelta | None = None
) -> None:
    end_with_parent()
    keep_freed_memory()  # a spawned process inherits only environment variables
    _divide_cores(args.num_gpus)
    if timeout is not None:
        _bound_other_group(timeout)
    try:
        with mishaps_told():
            main(args)
    except USER_ERRORS as error:
        if comm.get_world_size() == 1 or os.environ.get("MOCODET_TRACEBACK"):
            raise
        if multiprocessing.parent_process() and not _has_room_for_errors():
            sys.exit(f"error: {message_of(error)}")
        raise ReportedError(message_of(error)) from error
    except Stopped:
        _leave_group(args)
        raise
    except KeyboardInterrupt:
        if multiprocessing.parent_process() is None:
            raise
        sys.exit(128 + signal.SIGINT)  # torch would end a spawned process with status 0
    _leave_group(args)


def _has_room_for_errors() -> bool:
    """Return whether torch can pass an error to the parent process, which it does in a temporary file."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(LONGEST_TRACEBACK))
    except OSError:
        return False
    return True


def _leave_group(args: argparse.Namespace) -> None:
    if args.num_gpus * args.num_machines > 1:  # a thread of an open group may abort the process at exit
        dist.destroy_process_group()


def _check_cpu_is_meant(cfg: CfgNode, processes: int, remedy: str) -> None:
    """Raise an error for multiple processes on a machine without CUDA, unless the config selects the CPU."""
    if cfg.MODEL.DEVICE != "cpu":
        raise ValueError(
            f"{processes} processes were requested, but PyTorch finds no GPU on this machine and MODEL.DEVICE is"
            f" {cfg.MODEL.DEVICE!r}; add  MODEL.DEVICE cpu  to let the processes share the CPU, or {remedy}"
        )


def _import_and_run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> object:
    """Import the modules given with ``--import``, and return ``main(args)``."""
    import_modules(args.imports)
    return main(args)


def _join_torchrun(
    main: Callable[[argparse.Namespace], object],
    args: argparse.Namespace,
    read_config: Callable[[argparse.Namespace], Any],
) -> None:
    """Run ``main`` in this process, which torchrun has started and described in environment variables.

    Raises:
        ValueError: there are more processes than GPUs, the machines have different numbers of processes, or
            `_check_cpu_is_meant` raised an error.
    """
    world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_cuda, gpus = torch.cuda.is_available(), torch.cuda.device_count()
    if on_cuda and here > gpus:
        raise ValueError(
            f"torchrun started {here} processes on this machine, which has {gpus} GPUs; lower --nproc-per-node"
        )
    if world % here:
        raise ValueError(
            f"torchrun started {here} of {world} processes on this machine; use the same --nproc-per-node everywhere"
        )
    cfg = read_config(args)
    if world > 1 and not on_cuda:
        _check_cpu_is_meant(cfg, world, "start torchrun with --nproc-per-node 1")
    timeout = collective_timeout(cfg)
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    _divide_cores(here)
    if world == 1:  # no process group: layers such as SyncBN then do not use one
        with mishaps_told():
            main(args)
        return
    store, rank, _ = next(rendezvous("env://", timeout=DEFAULT_TIMEOUT))
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=fresh_store(store, rank, world),
        rank=rank,
        world_size=world,
        timeout=_timeout_of_group(timeout),
    )
    comm.create_local_process_group(here)
    comm.synchronize()
    _bound_other_group(timeout)
    with mishaps_told():
        main(args)
    # Only after success, because after an error the clean-up would wait for other processes that are still waiting.
    dist.destroy_process_group()


def fresh_store(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """Return a view of ``store`` under a new prefix, to which no earlier start has written; all processes must call it.

    torchrun may keep one store across restarts (PyTorch 2.14 does), in which case a process could read the address of a
    dead peer before the new peer has written its own. Because torchrun does not number the starts consistently on all
    machines, the processes agree on a prefix: each of them sends a request under a unique name, and rank 0 replies with
    its own name until all processes have confirmed it. Replies to requests from dead processes are harmless.

    Raises:
        RuntimeError: not all processes confirmed within detectron2's default timeout for collectives.
    """
    mine = uuid.uuid4().hex
    if rank > 0:
        store.set(f"mocodet/question/{rank}", mine)
        start = store.get(f"mocodet/answer/{mine}").decode()  # waits for the reply
        store.set(f"mocodet/{start}/{rank}", "confirmed")
        return dist.PrefixStore(f"mocodet/{start}", store)
    missing = set(range(1, world_size))
    deadline = time.monotonic() + DEFAULT_TIMEOUT.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} of {world_size} processes did not join: ranks {sorted(missing)}")
        for other in sorted(missing):
            if store.check([f"mocodet/{mine}/{other}"]):
                missing.remove(other)
            elif store.check([f"mocodet/question/{other}"]):
                store.set(f"mocodet/answer/{store.get(f'mocodet/question/{other}').decode()}", mine)
        time.sleep(0.01)
    return dist.PrefixStore(f"mocodet/{mine}", store)


def check_output(folder: str) -> None:
    """Raise an error if ``OUTPUT_DIR`` cannot be written to, before any work is done.

    Raises:
        OSError: the folder cannot be written to; the message names the config key and the obstacle.
    """
    if fault := writing_fault(folder):
        raise OSError(f"OUTPUT_DIR is {folder!r}, but {fault}; choose a folder that you can write to")


@contextmanager
def claim_output(folder: str) -> Iterator[None]:
    """Claim ``OUTPUT_DIR`` for the processes of this run while the block runs; all of them must call this function.

    The main process acquires the lock, and the other processes wait until it has done so before they write.

    Raises:
        BlockingIOError: another run trains in ``folder``, see `mocodet.common.locks.claim`; raised in all processes.
        OSError: the folder cannot be created or written to, see `check_output`; raised in all processes.
    """
    with ExitStack() as held:
        refusal: OSError | None = None
        if comm.is_main_process():
            try:
                check_output(folder)
                held.enter_context(claim(folder, instead="choose another OUTPUT_DIR"))
                remove_leftovers(folder)
            except OSError as error:
                refusal = error
        refusal = comm.all_gather(refusal)[0]
        if refusal is not None:
            raise refusal
        yield


def _divide_cores(processes: int) -> None:
    """Limit this process to its share of the cores if it computes on the CPU."""
    if not torch.cuda.is_available() and processes > 1:
        torch.set_num_threads(threads_for_each(processes))


def check_backend() -> None:
    """Raise an error for multiple processes on the CPU of a machine with CUDA, where NCCL connects them.

    Raises:
        ValueError: NCCL connects multiple processes; the message explains what to do.
    """
    if comm.get_world_size() > 1 and dist.get_backend() == "nccl":
        raise ValueError(
            "MODEL.DEVICE cpu cannot be combined with multiple processes on a machine with CUDA, because they are"
            " connected by NCCL, which does not support CPU tensors; hide the GPUs (CUDA_VISIBLE_DEVICES=) or use one"
            " process"
        )


def distribute(model: nn.Module) -> nn.Module:
    """Wrap ``model`` in ``DistributedDataParallel`` if there are multiple processes; otherwise return it unchanged.

    ``device_ids`` is passed only for CUDA models, because DDP rejects it for CPU models. As in detectron2, buffers are
    not broadcast in each step, because batch-norm statistics are either synchronised by the norm itself or meant to
    differ (Shuffling BN).
    """
    if comm.get_world_size() == 1:
        return model
    device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, **BUFFERS_STAY)
