"""Selects and injects faults, and checks how a training run ends after each of them (docs/reliability.md)."""

import math
import os
import random
import re
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from .processes import Run
from .trainings import Training

SIGNALS = {number.name: number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
KILL, KILL_RANK, KILL_LOADER = "SIGKILL", "SIGKILL of a rank", "SIGKILL of a loader"
STOP_RANK, FULL_DISK = "SIGSTOP of a rank", "full disk"
FAULTS = (KILL, *SIGNALS, KILL_RANK, KILL_LOADER, STOP_RANK, FULL_DISK)

# The single error line that a fault must cause, with exit status 1.
TOLD = {
    KILL_RANK: r"process \d of 2 was killed \(SIGKILL\)|rank \d of 2 (has ended|did not join)",
    KILL_LOADER: r"loader process( \d+)? was killed",
    STOP_RANK: r"rank {rank} of 2 did not join a collective operation within COLLECTIVE_TIMEOUT",
    FULL_DISK: r"could not be written: File too large",
}

TRACEBACK = re.compile(r"Traceback \(most recent call last\)|--- Logging error")

STARTING, WRITING, STEPPING = "starting", "writing a checkpoint", "between checkpoints"
MOMENTS = {STARTING: 0.15, WRITING: 0.2, STEPPING: 0.65}  # the probability that a fault occurs at each moment


@dataclass(frozen=True)
class Strike:
    """A fault to inject.

    Attributes:
        fault: one of `FAULTS`.
        moment: one of `MOMENTS`.
        checkpoints: the number of new checkpoints to wait for first.
        delay: the additional delay, as a fraction of the longest possible one.
        draw: a number in [0, 1) that selects the process or how full the disk is.
        remove_images: whether damaged images that the run has listed are removed before it is resumed.
    """

    fault: str
    moment: str
    checkpoints: int
    delay: float
    draw: float
    remove_images: bool


def can_meet(training: Training, fault: str) -> bool:
    """Return whether a training run has the processes that a fault affects."""
    if fault == KILL_LOADER:
        return training.loaders
    return training.processes > 1 or fault not in (KILL_RANK, STOP_RANK)


def schedule(seed: int, number: int, training: Training, faults: Sequence[str] = FAULTS) -> list[Strike]:
    """Select two to four faults for a round, as a function of the seed and the round."""
    stream = random.Random(f"{seed}/{number}")
    possible = [fault for fault in faults if can_meet(training, fault)]
    return [
        Strike(
            fault=(fault := stream.choice(possible)),
            # The other processes wait longer for a process that is stopped before the first step.
            moment=STEPPING if fault == STOP_RANK else stream.choices(list(MOMENTS), list(MOMENTS.values()))[0],
            checkpoints=stream.randint(1, 2),
            delay=stream.random(),
            draw=stream.random(),
            remove_images=stream.random() < 0.25,
        )
        for _ in range(stream.randint(2, 4))
        if possible
    ]


class Struck(NamedTuple):
    """Describes how a fault was injected.

    Attributes:
        what: a description for people.
        wrote: whether the run had written a checkpoint since its last start.
        late: whether the run was in its last period or at its end.
        rank: the rank or loader that was affected, if any.
        pid: the id of the affected process, if any.
    """

    what: str
    wrote: bool
    late: bool
    rank: int = -1
    pid: int = -1


def wait_for_moment(run: Run, strike: Strike, first: float, gap: float) -> bool:
    """Wait for the moment of a fault, and return whether the run is still active.

    Args:
        run: the training run.
        strike: the fault.
        first: the approximate number of seconds from a start to the first new checkpoint.
        gap: the number of seconds between two checkpoints.
    """
    if strike.moment == STARTING:
        return run.wait(seconds=strike.delay * first)
    if not run.wait(lambda: len(run.seen) >= strike.checkpoints):
        return False
    if strike.moment == WRITING:
        there = run.wait(lambda: any(run.output.glob(".model_*.tmp")), pause=0.01)
        return there and run.wait(seconds=strike.delay, pause=0.01)
    return run.wait(seconds=strike.delay * gap)


def bytes_left(strike: Strike, training: Training) -> int:
    """Return the maximum file size that simulates a full disk, sampled log-uniformly from 1 KiB to 64 MiB.

    With loader processes, which transfer batches in files in /dev/shm, the size is at least 1 MiB.
    """
    least, most = math.log(1 << (20 if training.loaders else 10)), math.log(1 << 26)
    return round(math.exp(least + strike.draw * (most - least)))


def hit(run: Run, strike: Strike) -> Struck | None:
    """Inject a fault, and return None if the affected process has ended or does not exist."""
    training = run.training
    late = training.next_iteration(run.newest()) >= training.iterations - training.period
    struck = partial(Struck, wrote=bool(run.seen), late=late)
    try:
        if strike.fault in SIGNALS:
            to_group = strike.draw < 0.5
            (os.killpg if to_group else os.kill)(run.pid, SIGNALS[strike.fault])
            return struck(f"{strike.fault} to {'the group' if to_group else 'the command'}")
        if strike.fault == KILL:
            os.kill(run.pid, signal.SIGKILL)
            return struck(KILL)
        if strike.fault == FULL_DISK:
            size = bytes_left(strike, training)
            for pid in {run.pid, *run.ranks()}:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            return struck(f"files of at most {size} bytes")
        found, least = (run.loaders, 1) if strike.fault == KILL_LOADER else (run.ranks, training.processes)
        if not run.wait(lambda: len(found()) >= least, pause=0.2):
            return None
        pids = found()
        rank = int(strike.draw * len(pids))
        os.kill(pids[rank], signal.SIGSTOP if strike.fault == STOP_RANK else signal.SIGKILL)
        return struck(f"{strike.fault}, number {rank}", rank=rank, pid=pids[rank])
    except (ProcessLookupError, IndexError):
        return None


def complaints(strike: Strike, struck: Struck, status: int, printed: str) -> list[str]:
    """List how the end of a run after a fault differs from the documented behaviour.

    Args:
        strike: the fault.
        struck: how the fault was injected.
        status: the exit status, which is negative if a signal ended the command.
        printed: the complete output of the command.
    """
    lines = printed.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    if strike.fault in SIGNALS:
        number = SIGNALS[strike.fault]
        good = status == 128 + number and f"stopped by {strike.fault}; --resume" in printed
        # Before the first step and after the last step, signals have their usual effect.
        good = good or ((not struck.wrote or struck.late) and status in (-number, 128 + number))
        good = good and not errors
    elif strike.fault == KILL:
        good = status == -signal.SIGKILL and not errors
    else:
        told = TOLD[strike.fault].format(rank=struck.rank)
        good = status == 1 and len(errors) == 1 and bool(re.search(told, errors[0]))
    if status == 0:
        # A loader process may already have been ending.
        good = struck.late or strike.fault == KILL_LOADER
    found = [] if good else [f"{struck.what} resulted in status {status} and {errors or lines[-1:]}"]
    return found + [f"{struck.what} resulted in a traceback" for line in lines if TRACEBACK.match(line)][:1]
