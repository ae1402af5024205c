"""The start of processes, for pre-training and detection."""

import argparse
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
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
from .locks import claim
from .mishaps import mishaps_told
from .status import FAILED, STOPPED, note_end
from .stopping import Stopped, passed_on
from .tether import end_with_parent

# NCCL aborts a waiting process without saying for which one it waits. The small collective of `StopWhenAsked`, over
# gloo, begins a step later and must give up first. Its error reaches only processes that are not waiting for their GPU.
NCCL_WAITS_LONGER = timedelta(minutes=1)

# A newer PyTorch warns about the older name.
_SYNCS = "forward_sync_buffers"
BUFFERS_STAY: dict[str, Any] = {
    _SYNCS if _SYNCS in signature(DistributedDataParallel).parameters else "broadcast_buffers": False
}


class ReportedError(Exception):
    """Carries one of ``USER_ERRORS`` from a spawned process to the one that started it; its text is the message."""


def launch(
    main: Callable[[argparse.Namespace], object],
    args: argparse.Namespace,
    read_config: Callable[[argparse.Namespace], CfgNode],
) -> None:
    """Run ``main(args)`` in ``args.num_gpus`` processes on each of ``args.num_machines`` machines, or under torchrun.

    A process that torchrun started is one of the processes already, so ``main`` runs in it.

    Uses NCCL if CUDA is available, else gloo, as detectron2's launcher does. Several processes without CUDA are refused
    unless the config says ``MODEL.DEVICE cpu``. On a CPU the cores are divided between the processes; by default every
    process would start one thread for every core.

    Args:
        main: the function to run, defined at the top level of a module.
        args: the command line.
        read_config: reads the config; `main` reads it again in each process.

    Raises:
        SystemExit: one of ``USER_ERRORS`` was raised, and its message is the exit status (under torchrun, in every
            process that raised it); or one of several processes was killed.
        torch.multiprocessing.ProcessRaisedException: another error in one of several processes, with its traceback.
    """
    with errors_in_one_line():
        start = _join_torchrun if dist.is_torchelastic_launched() else _start
        start(partial(_import_and_run, main), args, partial(_import_and_run, read_config))


def _start(
    main: Callable[[argparse.Namespace], object],
    args: argparse.Namespace,
    read_config: Callable[[argparse.Namespace], Any],
) -> None:
    """Start the processes of this machine by detectron2's launcher."""
    gpus, machines, rank, url = args.num_gpus, args.num_machines, args.machine_rank, args.dist_url
    if torch.cuda.is_available() and gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {gpus}, but this machine has {torch.cuda.device_count()} GPUs")
    start = partial(detectron2_launch, num_machines=machines, machine_rank=rank, dist_url=url)
    if gpus * machines == 1:
        start(_run_in_process, 1, args=(main, args))
        return
    cfg = read_config(args)
    if not torch.cuda.is_available():
        _check_cpu_is_meant(cfg, gpus * machines, "leave out --num-gpus and --num-machines")
    timeout = collective_timeout(cfg)
    with passed_on() as signals:
        try:
            start(_run_in_process, gpus, args=(main, args, timeout), timeout=_timeout_of_group(timeout))
        except (ProcessExitedException, ProcessRaisedException) as error:
            if signals:
                note_end(cfg.OUTPUT_DIR, STOPPED, signal.Signals(signals[0]).name)
                print("interrupted", file=sys.stderr, flush=True)  # the errors that follow are not printed
                sys.exit(128 + signals[0])
            told = _told(error, gpus)
            note_end(cfg.OUTPUT_DIR, FAILED, told or str(error).strip().rpartition("\n")[2])
            if not told and isinstance(error, ProcessExitedException):
                sys.exit(error.exit_code)  # it has printed why
            if not told:
                raise
            sys.exit(f"error: {told}")


def _told(error: ProcessExitedException | ProcessRaisedException, processes: int) -> str:
    """Say in one line why one of several processes ended; empty if it is a fault of the program or has been printed."""
    if isinstance(error, ProcessRaisedException):
        # Only the text of the traceback comes through, with the error at its end.
        _, reported, message = str(error).rpartition(f"{ReportedError.__module__}.{ReportedError.__qualname__}: ")
        return message.rstrip() if reported else ""
    if error.signal_name is None:
        return ""
    because = "memory ran out: use fewer processes, or fewer or smaller images"
    if error.signal_name == signal.SIGABRT.name:  # of NCCL's watchdog
        because = "it timed out waiting for another one, which hangs or was stopped: see above, and end what is left"
    killed = f"process {error.error_index} of {processes} was killed ({error.signal_name})"
    return f"{killed}; unless someone killed it, {because}"


def collective_timeout(cfg: CfgNode) -> timedelta:
    """Return how long the processes of a run wait for each other, the key COLLECTIVE_TIMEOUT.

    Raises:
        ValueError: it is less than a second.
    """
    if cfg.COLLECTIVE_TIMEOUT < 1:
        raise ValueError(f"COLLECTIVE_TIMEOUT is {cfg.COLLECTIVE_TIMEOUT}; expected a number of seconds, at least 1")
    return timedelta(seconds=cfg.COLLECTIVE_TIMEOUT)


def _timeout_of_group(timeout: timedelta) -> timedelta:
    return timeout + NCCL_WAITS_LONGER if torch.cuda.is_available() else timeout


def _bound_other_group(timeout: timedelta) -> None:
    """Give the same timeout to the group by which detectron2 sends objects, if that is another one."""
    if dist.get_backend() == "nccl":
        comm._get_global_gloo_group()._get_backend(torch.device("cpu"))._set_default_timeout(timeout)


def _run_in_process(
    main: Callable[[argparse.Namespace], object], args: argparse.Namespace, timeout: timedelta | None = None
) -> None:
    end_with_parent()
    keep_freed_memory()  # a spawned process inherits only the environment of the command
    _divide_cores(args.num_gpus)
    if timeout is not None:
        _bound_other_group(timeout)
    try:
        with mishaps_told():
            main(args)
    except USER_ERRORS as error:
        if comm.get_world_size() == 1 or os.environ.get("MOCODET_TRACEBACK"):
            raise
        raise ReportedError(message_of(error)) from error
    except Stopped:
        _leave_group(args)
        raise
    except KeyboardInterrupt:
        if multiprocessing.parent_process() is None:
            raise
        sys.exit(128 + signal.SIGINT)  # torch would end a spawned process with status 0
    _leave_group(args)


def _leave_group(args: argparse.Namespace) -> None:
    if args.num_gpus * args.num_machines > 1:  # a thread of a remaining group may abort the process at its exit
        dist.destroy_process_group()


def _check_cpu_is_meant(cfg: CfgNode, processes: int, remedy: str) -> None:
    """Refuse several processes on a machine without CUDA, unless the config asks for the CPU."""
    if cfg.MODEL.DEVICE != "cpu":
        raise ValueError(
            f"{processes} processes, but PyTorch finds no GPU on this machine, and MODEL.DEVICE is"
            f" {cfg.MODEL.DEVICE!r}; add  MODEL.DEVICE cpu  to let the processes share its CPU, or {remedy}"
        )


def _import_and_run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> object:
    """Import the modules of ``--import``, which may be in the current folder, then return ``main(args)``."""
    if args.imports and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for name in args.imports:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"--import {name}: {error}; expected a module in this folder or in PYTHONPATH") from error
    return main(args)


def _join_torchrun(
    main: Callable[[argparse.Namespace], object],
    args: argparse.Namespace,
    read_config: Callable[[argparse.Namespace], Any],
) -> None:
    """Run ``main`` in this process, which torchrun started and described in the environment.

    Raises:
        ValueError: more processes than GPUs; machines with different numbers of processes; see `_check_cpu_is_meant`.
    """
    world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_cuda, gpus = torch.cuda.is_available(), torch.cuda.device_count()
    if on_cuda and here > gpus:
        raise ValueError(
            f"torchrun started {here} processes here, but this machine has {gpus} GPUs; lower --nproc-per-node"
        )
    if world % here:
        raise ValueError(
            f"torchrun started {here} of {world} processes here; all machines need the same --nproc-per-node"
        )
    cfg = read_config(args)
    if world > 1 and not on_cuda:
        _check_cpu_is_meant(cfg, world, "give torchrun --nproc-per-node 1")
    timeout = collective_timeout(cfg)
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    _divide_cores(here)
    if world == 1:  # no group: layers that need one, such as SyncBN, do without
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
    # Only after success: after an error other processes may still wait, and the clean-up would wait for them.
    dist.destroy_process_group()


def fresh_store(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """Return a part of ``store`` to which no earlier start has written; all processes must call it.

    torchrun may keep one store through its restarts (PyTorch 2.14 does). A process might then read the address of a
    dead peer before the new one has written its own. torchrun does not number the starts alike on all machines, so the
    processes agree on a name: each asks under its own name, and rank 0 answers with its name until all have
    confirmed it. Answers to questions of dead processes do no harm.

    Raises:
        RuntimeError: not all processes confirmed within detectron2's time for collectives.
    """
    mine = uuid.uuid4().hex
    if rank > 0:
        store.set(f"mocodet/question/{rank}", mine)
        start = store.get(f"mocodet/answer/{mine}").decode()  # waits for it
        store.set(f"mocodet/{start}/{rank}", "confirmed")
        return dist.PrefixStore(f"mocodet/{start}", store)
    missing = set(range(1, world_size))
    deadline = time.monotonic() + DEFAULT_TIMEOUT.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} of {world_size} processes did not arrive: ranks {sorted(missing)}")
        for other in sorted(missing):
            if store.check([f"mocodet/{mine}/{other}"]):
                missing.remove(other)
            elif store.check([f"mocodet/question/{other}"]):
                store.set(f"mocodet/answer/{store.get(f'mocodet/question/{other}').decode()}", mine)
        time.sleep(0.01)
    return dist.PrefixStore(f"mocodet/{mine}", store)


def check_output(folder: str) -> None:
    """Refuse an ``OUTPUT_DIR`` that cannot be written to, before any work is done.

    Raises:
        OSError: the message names the key and the obstacle.
    """
    if fault := writing_fault(folder):
        raise OSError(f"OUTPUT_DIR is {folder!r}, but {fault}; give a folder that you can write to")


@contextmanager
def claim_output(folder: str) -> Iterator[None]:
    """Hold ``OUTPUT_DIR`` for the processes of this run while the block runs; all of them must call it.

    The main process takes the lock; the others wait for it, so that none writes before.

    Raises:
        BlockingIOError: in all processes: another run trains in ``folder``; see `mocodet.common.locks.claim`.
        OSError: in all processes: the folder cannot be made or written to; see `check_output`.
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
    """Limit this process to its share of the cores, if it computes on the CPU."""
    if not torch.cuda.is_available() and processes > 1:
        torch.set_num_threads(threads_for_each(processes))


def check_backend() -> None:
    """Refuse several processes on the CPU of a machine with CUDA, where NCCL connects them.

    Raises:
        ValueError: the message says what to do.
    """
    if comm.get_world_size() > 1 and dist.get_backend() == "nccl":
        raise ValueError(
            "MODEL.DEVICE cpu with several processes on a machine with CUDA: NCCL connects them, which cannot"
            " move CPU tensors; hide the GPUs (CUDA_VISIBLE_DEVICES=) or use one process"
        )


def distribute(model: nn.Module) -> nn.Module:
    """Wrap ``model`` in ``DistributedDataParallel`` when there is more than one process; else return it unchanged.

    ``device_ids`` is given for CUDA models only, since DDP refuses it for CPU models. Steps broadcast no buffers, as in
    detectron2: batch-norm statistics are either synchronised by the norm itself or meant to differ (Shuffling BN).
    """
    if comm.get_world_size() == 1:
        return model
    device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, **BUFFERS_STAY)
