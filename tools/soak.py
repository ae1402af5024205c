#!/usr/bin/env python3
"""Train for hours among faults, and see that nothing is lost and nothing left over.

Rounds alternate between small trainings of both halves, on generated data. In a round, faults that the seed draws
strike at random moments, and each time the same command goes on with --resume. The end must be bit-identical to that of
a reference, which was not interrupted; exit statuses and messages must be the documented ones (docs/reliability.md).

OUT/soak.json has what was found, after every round. The same command goes on with the next round until the hours are
full. The exit status is 1 if anything was violated; the folders of such rounds stay.
"""

import argparse
import math
import os
import random
import re
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mocodet.common.checkpoint import LAST
from mocodet.common.errors import errors_in_one_line, told_in_one_line
from mocodet.common.files import read_json, read_json_lines, write_json
from mocodet.common.locks import claim
from mocodet.common.progress import duration
from mocodet.common.retention import PERIODIC
from mocodet.common.study.process import Tether
from mocodet.common.tether import VARIABLE as TETHER_VARIABLE
from mocodet.detection.data.toy import TOY_CLASSES, make_toy_data

SIGNALS = {number.name: number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
KILL, KILL_RANK, KILL_LOADER = "SIGKILL", "SIGKILL of a rank", "SIGKILL of a loader"
STOP_RANK, FULL_DISK = "SIGSTOP of a rank", "full disk"
FAULTS = (KILL, *SIGNALS, KILL_RANK, KILL_LOADER, STOP_RANK, FULL_DISK)

# The one line that a fault leads to, with status 1.
TOLD = {
    KILL_RANK: r"process \d of 2 was ended from outside \(SIGKILL\)|rank \d of 2 (has ended|did not come)",
    KILL_LOADER: r"loader process \d+ was ended from outside",
    STOP_RANK: r"rank {rank} of 2 did not come to a collective operation within COLLECTIVE_TIMEOUT",
    FULL_DISK: r"File too large",
}

TRACEBACK = re.compile(r"Traceback \(most recent call last\)|--- Logging error")

STARTING, WRITING, STEPPING = "starting", "writing a checkpoint", "between checkpoints"
MOMENTS = {STARTING: 0.15, WRITING: 0.2, STEPPING: 0.65}  # how often faults strike then

WINDOW = 20  # iterations over which detectron2 writes medians
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds", "images_per_second"}
NO_MEDIANS = re.compile(r"lr|bbox/.*|knn_.*|.*_chance")
KEPT = 2  # checkpoints, beside the final one
# In an OUTPUT_DIR. Each start has a file of events.
BY_CHANCE = re.compile(r"events\.out\.tfevents\..*|log\.txt\.rank1|skipped\.json\.lock")

PATIENCE = 2400.0  # seconds in which a command must end
FAREWELL = 20.0  # seconds in which its processes must end after it
SAMPLES = 8  # of memory, files and threads, with which early and late can be compared
MORE_FILES, MORE_MEMORY = 4, 1.15  # than early, from which on late is a violation
MORE_DISK = 1 << 20  # bytes more in OUT than after the first round, likewise


@dataclass(frozen=True)
class Training:
    """A training of some minutes.

    Attributes:
        name: for people, and of its folder.
        words: the command without --resume and OUTPUT_DIR; ``{data}`` and ``{datasets}`` are filled in.
        period: iterations from a checkpoint to the next.
        iterations: of the whole training.
        processes: that train.
        loaders: whether it has loader processes.
    """

    name: str
    words: tuple[str, ...]
    period: int
    iterations: int
    processes: int = 1
    loaders: bool = True

    def faults(self, wanted: Iterable[str] = FAULTS) -> list[str]:
        """Return those of ``wanted`` that it can meet."""
        absent = {*(() if self.loaders else (KILL_LOADER,)), *(() if self.processes > 1 else (KILL_RANK, STOP_RANK))}
        return [fault for fault in wanted if fault not in absent]


def _pairs(**keys: object) -> tuple[str, ...]:
    """Return KEY VALUE pairs; a name has ``__`` for each dot."""
    return tuple(text for name, value in keys.items() for text in (name.replace("__", "."), str(value)))


def _pretraining(name: str, epochs: int, processes: int = 1, **keys: object) -> Training:
    period, batch, images = 12, 32, 384
    pairs = _pairs(
        DATA__ROOT="{data}/unlabelled",
        DATA__MAX_UNREADABLE=0.05,
        DATA__NUM_WORKERS=1 if processes == 1 else 0,
        AUGMENTATION__CROP_SIZE=24,
        MODEL__DEVICE="cpu",
        MODEL__BN_GROUPS=4 // processes,
        CONTRAST__QUEUE_SIZE=64,
        KNN__DATASET="{knn}",
        KNN__K=10,
        KNN__PERIOD=2 * period,
        SOLVER__IMS_PER_BATCH=batch,
        SOLVER__MAX_EPOCHS=epochs,
        SOLVER__WARMUP_ITERS=8,
        SOLVER__PRECISION="float32",
        SOLVER__CHECKPOINT_PERIOD=period,
        SOLVER__CHECKPOINTS_KEPT=KEPT,
        LOG_PERIOD=4,
        **keys,
    )
    flags = ("--num-gpus", str(processes)) if processes > 1 else ()
    words = ("pretrain", "--config-file", "pretrain/demo_moco_v2_R_18.yaml", *flags, *pairs)
    return Training(name, words, period, epochs * (images // batch), processes, processes == 1)


def _finetuning(name: str, iterations: int, *, loaders: bool, **keys: object) -> Training:
    period = 6
    pairs = _pairs(
        MOCO__DATASETS="{datasets}",
        MODEL__DEVICE="cpu",
        DATALOADER__NUM_WORKERS=int(loaders),
        SOLVER__IMS_PER_BATCH=4,
        SOLVER__MAX_ITER=iterations,
        SOLVER__STEPS=(iterations * 3 // 4,),
        SOLVER__WARMUP_ITERS=4,
        SOLVER__CHECKPOINT_PERIOD=period,
        SOLVER__CHECKPOINTS_KEPT=KEPT,
        TEST__EVAL_PERIOD=2 * period,
        TEST__PRECISE_BN__NUM_ITER=4,
        SEED=1,
        **keys,
    )
    words = ("train", "--config-file", "toy_R_18_FPN_random.yaml", *pairs)
    return Training(name, words, period, iterations, loaders=loaders)


TRAININGS = (
    _pretraining("pre-training", epochs=8),
    _finetuning("fine-tuning", 54, loaders=True),
    _pretraining("pre-training_in_2_processes", epochs=4, processes=2, COLLECTIVE_TIMEOUT=45),
    _finetuning("fine-tuning_in_bfloat16", 54, loaders=False, SOLVER__AMP__ENABLED=True),
)


@dataclass(frozen=True)
class Strike:
    """A fault that is to come.

    Attributes:
        fault: one of `FAULTS`.
        moment: one of `MOMENTS`.
        checkpoints: new ones that come first.
        delay: after that, as a share of the time that it may be.
        draw: within [0, 1): which process, or how full the disk.
        remove_images: whether damaged images that the run has listed are removed before it goes on.
    """

    fault: str
    moment: str
    checkpoints: int
    delay: float
    draw: float
    remove_images: bool


def schedule(seed: int, number: int, training: Training, faults: Sequence[str] = FAULTS) -> list[Strike]:
    """Draw what strikes in a round: two to four faults, a function of seed and round."""
    stream = random.Random(f"{seed}/{number}")
    possible = training.faults(faults)
    return [
        Strike(
            fault=(fault := stream.choice(possible)),
            # A process that is stopped before the first step is waited for longer, as processes that start are.
            moment=STEPPING if fault == STOP_RANK else stream.choices(list(MOMENTS), list(MOMENTS.values()))[0],
            checkpoints=stream.randint(1, 2),
            delay=stream.random(),
            draw=stream.random(),
            remove_images=stream.random() < 0.25,
        )
        for _ in range(stream.randint(2, 4))
        if possible
    ]


# ---------------------------------------------------------------------------------------------------------- processes


class Process(NamedTuple):
    """A running process of a session, as /proc has it."""

    pid: int
    parent: int
    started: int
    command: str


def processes_of(session: int) -> list[Process]:
    """Return what runs in a session, in the order of the starts."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, of, *others = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(of) == session and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(folder.name), int(parent), int(others[15]), command))
    return sorted(found, key=lambda process: process.started)


@dataclass
class Sample:
    """What the processes that train have at a moment, together."""

    memory: int
    files: int
    threads: int


def sample(pids: Iterable[int]) -> Sample | None:
    """Measure processes; None where one is gone."""
    whole = Sample(0, 0, 0)
    try:
        for pid in pids:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            whole.memory += int(status["VmRSS"].split()[0]) << 10
            whole.threads += int(status["Threads"])
            whole.files += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (quicker)
    except (OSError, KeyError):
        return None
    return whole


class Run:
    """A training that has been started, the leader of a session of its own.

    Args:
        training: what is trained.
        command: the whole command.
        output: its OUTPUT_DIR.
        terminal: file for what it prints, by way of a pipe: a limit on the size of its files does not concern it.
        environment: its environment.
        tether: ends it with this process.
    """

    def __init__(
        self,
        training: Training,
        command: Sequence[str],
        output: Path,
        terminal: Path,
        environment: Mapping[str, str],
        tether: Tether,
    ):
        self.training, self.output, self.terminal = training, output, terminal
        self.first = self.newest()
        self.seen: list[str] = []  # checkpoints that it has written
        self.samples: list[Sample] = []  # since the first of them
        self.pids: set[int] = set()  # of all its processes
        self.status: int | None = None
        self.peak = 0  # bytes
        self.began = self._sampled = time.monotonic()
        self._process = subprocess.Popen(
            command,
            env={**environment, TETHER_VARIABLE: str(tether.reading)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(tether.reading,),
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self.terminal.open("wb") as printed:
            while text := os.read(self._process.stdout.fileno(), 1 << 16):
                printed.write(text)
                printed.flush()

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began

    def newest(self) -> str:
        """Return the name of the last checkpoint in its folder, or nothing."""
        with suppress(FileNotFoundError):
            return (self.output / LAST).read_text().strip()
        return ""

    def ranks(self) -> list[int]:
        """Return the processes that train, in the order of their ranks."""
        if self.training.processes == 1:
            return [self.pid]
        return [one.pid for one in self.children() if "spawn_main" in one.command]

    def loaders(self) -> list[int]:
        """Return its loader processes, which are forked."""
        mine = [one.command for one in processes_of(self.pid) if one.pid == self.pid]
        return [one.pid for one in self.children() if one.command in mine]

    def children(self) -> list[Process]:
        """Return the processes that it has started."""
        return [one for one in processes_of(self.pid) if one.parent == self.pid]

    def running(self) -> bool:
        """Look after it; tell whether it has not ended."""
        if self.status is not None:
            return False
        newest = self.newest()
        if newest not in ("", self.first, *self.seen[-1:]):
            self.seen.append(newest)
        if time.monotonic() - self._sampled > 1:
            self._look()
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.status = self._process.returncode = os.waitstatus_to_exitcode(status)
            self.peak = usage.ru_maxrss << 10
        return not pid

    def _look(self) -> None:
        self._sampled = time.monotonic()
        self.pids |= {one.pid for one in processes_of(self.pid)}
        ranks = self.ranks()
        if self.seen and len(ranks) == self.training.processes and (measured := sample(ranks)):
            self.samples.append(measured)

    def wait(self, until: Callable[[], object] = lambda: False, seconds: float = math.inf, pause: float = 0.05) -> bool:
        """Wait until it has ended, or something is so, or some seconds are over; return whether it still runs.

        Raises:
            TimeoutError: it runs for longer than anything can take.
        """
        deadline = time.monotonic() + seconds
        while running := self.running():
            if until() or time.monotonic() > deadline:
                break
            if self.seconds > PATIENCE:
                raise TimeoutError(f"it did not end within {duration(PATIENCE)}")
            time.sleep(pause)
        return running

    def leave(self) -> list[Process]:
        """Wait for the processes of a run that has ended; return those that did not end, after ending them."""
        deadline = time.monotonic() + FAREWELL
        while (left := processes_of(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.end()
        self._reader.join(FAREWELL)
        return left

    def end(self) -> None:
        """Kill all that is there of it."""
        for process in processes_of(self.pid):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        while self.running():
            time.sleep(0.05)

    def printed(self) -> str:
        """Return what it has printed."""
        return self.terminal.read_text(errors="replace")


# ------------------------------------------------------------------------------------------------------------- faults


class Struck(NamedTuple):
    """How a fault struck.

    Attributes:
        what: for people.
        wrote: whether the training had written a checkpoint since it began or went on.
        late: whether it was in its last period, or at its end.
        rank: that the fault concerned, if it was one.
        pid: likewise.
    """

    what: str
    wrote: bool
    late: bool
    rank: int = -1
    pid: int = -1


def wait_for_moment(run: Run, strike: Strike, first: float, gap: float) -> bool:
    """Wait for the moment of a strike; return whether the run is still there.

    Args:
        run: the training.
        strike: the fault.
        first: seconds from a start to the first new checkpoint, about.
        gap: seconds from one to the next.
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
    """Return how large a file may become on the full disk of a strike; 1 KiB to 64 MiB, all magnitudes alike.

    Batches go from loader processes by files in /dev/shm: with such processes it is 1 MiB at least.
    """
    least, most = math.log(1 << (20 if training.loaders else 10)), math.log(1 << 26)
    return round(math.exp(least + strike.draw * (most - least)))


def hit(run: Run, strike: Strike) -> Struck | None:
    """Let a fault strike; return None where the process that it is for has ended, or is not there."""
    training = run.training
    late = next_iteration(run.newest(), training) >= training.iterations - training.period
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
    """Say what is not as documented about how a run ended that a fault struck.

    Args:
        strike: the fault.
        struck: how it struck.
        status: the exit status; negative if a signal ended the command.
        printed: all that it printed.
    """
    lines = printed.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    if strike.fault in SIGNALS:
        number = SIGNALS[strike.fault]
        good = status == 128 + number and f"stopped by {strike.fault}; --resume goes on from" in printed
        # Before the first step and after the last one signals have their usual effect.
        good = good or ((not struck.wrote or struck.late) and status in (-number, 128 + number))
        good = good and not errors
    elif strike.fault == KILL:
        good = status == -signal.SIGKILL and not errors
    else:
        told = TOLD[strike.fault].format(rank=struck.rank)
        good = status == 1 and len(errors) == 1 and bool(re.search(told, errors[0]))
    if status == 0:
        # A loader process may be at its own end.
        good = struck.late or strike.fault == KILL_LOADER
    found = [] if good else [f"{struck.what} led to status {status} and {errors or lines[-1:]}"]
    return found + [f"{struck.what} led to a traceback" for line in lines if TRACEBACK.match(line)][:1]


# ---------------------------------------------------------------------------------------------------------- comparing


def difference(one: Any, other: Any, where: str = "") -> str:
    """Say where two nested containers differ, bit by bit, in types, order or numbers; nothing where they do not."""
    if type(one) is not type(other):
        return f"{where}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))
        return "" if same else f"{where}: tensors"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{where}: other keys"
        items = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} entries"
        items = [(place, *pair) for place, pair in enumerate(zip(one, other, strict=True))]
    else:
        return "" if repr(one) == repr(other) else f"{where}: {one!r} and {other!r}"
    return next((found for key, a, b in items if (found := difference(a, b, f"{where}/{key}"))), "")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def other_metrics(
    reference: Iterable[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], starts: Sequence[tuple[int, int]]
) -> list[str]:
    """Say which values of a reference's ``metrics.json`` another run's lacks, or has otherwise; times aside.

    A run that went on writes medians over its own iterations alone: they are compared where they span `WINDOW`.

    Args:
        reference: its lines.
        found: the other's.
        starts: for each start of the other how many lines there were, and at which iteration it began.
    """
    values: dict[tuple[int, str], tuple[Any, bool]] = {}
    for place, record in enumerate(found):
        began = max(start for start in starts if start[0] <= place)[1]
        whole = began == 0 or record["iteration"] - began + 1 >= WINDOW
        for name, value in record.items():
            values[record["iteration"], name] = value, whole or bool(NO_MEDIANS.fullmatch(name))
    wrong = []
    iterations = {iteration for iteration, _ in values}
    for record in reference:
        if record["iteration"] not in iterations:
            wrong.append(f"metrics.json has no line of iteration {record['iteration']}")
            continue
        for name in sorted(record.keys() - TIMES):
            value, comparable = values.get((record["iteration"], name), (None, True))
            if comparable and repr(value) != repr(record[name]):
                wrong.append(f"{name} of iteration {record['iteration']} is {value}, not {record[name]}")
    return wrong


def expected_checkpoints(training: Training, stopped: Iterable[str]) -> set[str]:
    """Return the checkpoints that are in the folder at the end; ``stopped``: those that signals led to."""
    periodic = {
        f"model_{done - 1:07d}.pth" for done in range(training.period, training.iterations + 1, training.period)
    }
    return {"model_final.pth", *sorted(periodic | set(stopped))[-KEPT:]}


def names_in(output: Path) -> set[str]:
    """Return the files in an OUTPUT_DIR, but for those that depend on how often it went on."""
    files = (str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    return {name for name in files if not BY_CHANCE.fullmatch(name)}


def other_end(training: Training, reference: Path, output: Path, starts: Sequence[tuple[int, int]]) -> list[str]:
    """Say in what the end of a run among faults differs from the reference's."""
    ends = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (reference, output)]
    found = [f"model_final.pth differs at {where}"] if (where := difference(*ends)) else []
    found += other_metrics(*(read_json_lines(folder / "metrics.json") for folder in (reference, output)), starts)
    names = [{name for name in names_in(folder) if not PERIODIC.fullmatch(name)} for folder in (reference, output)]
    found += [f"{name} is left over" for name in sorted(names[1] - names[0])]
    found += [f"{name} is not there" for name in sorted(names[0] - names[1])]
    for name in sorted(names[0] & names[1]):
        if re.match(r"results\.json|inference/|neighbours/", name):
            same = (reference / name).read_bytes() == (output / name).read_bytes()
            found += [] if same else [f"{name} differs"]
    if skipped(reference) != skipped(output):
        found.append(f"skipped.json lists {skipped(output)}, not {skipped(reference)}")
    if (state := read_json(output / "status.json")["state"]) != "finished":
        found.append(f"status.json says {state!r}")
    return found


def skipped(output: Path) -> list[str]:
    """Return the images that a pre-training could not read."""
    path = output / "skipped.json"
    return sorted(entry["file"] for entry in read_json(path)["skipped"]) if path.is_file() else []


def growth(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Return medians of the first and the last third of what was measured; nothing of too few."""
    third = len(samples) // 3
    if len(samples) < SAMPLES:
        return {}
    return {
        name: [statistics.median(getattr(one, name) for one in part) for part in (samples[:third], samples[-third:])]
        for name in ("memory", "files", "threads")
    }


def grown(trend: Mapping[str, Sequence[float]]) -> list[str]:
    """Say what is not flat in what `growth` returned."""
    found = []
    for name, (early, late) in trend.items():
        if late > (early * MORE_MEMORY if name == "memory" else early + MORE_FILES):
            found.append(f"{name}: {early:.0f} early, {late:.0f} late")
    return found


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*"))


# -------------------------------------------------------------------------------------------------------------- rounds


@dataclass
class Round:
    """What a round found; kept in ``soak.json``."""

    number: int
    training: str
    command: str
    attempts: list[dict[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    disk: int = 0  # bytes in the folder of the soak, without those of rounds with violations


def next_iteration(checkpoint: str, training: Training) -> int:
    """Return the iteration at which ``--resume`` goes on from a checkpoint; ``""``: from none."""
    if match := PERIODIC.fullmatch(checkpoint):
        return int(match[1]) + 1
    return training.iterations if checkpoint else 0


def damage(folder: Path) -> None:
    """Write four files that have an image's name and cannot be read as one."""
    sound = next(path for path in sorted(folder.iterdir()) if not path.name.startswith("damaged")).read_bytes()
    contents = (b"", b"no image", sound[: len(sound) // 2], b"PK\x03\x04" + bytes(200))
    for number, content in enumerate(contents):
        (folder / f"damaged{number}.jpg").write_bytes(content)


class Soak:
    """Trainings among faults, in a folder.

    Args:
        out: the folder.
        seed: of the faults.
        faults: which may strike.
        trainings: which are trained, in turn.

    Raises:
        ValueError: the folder has a soak of other faults.
    """

    def __init__(self, out: Path, seed: int, faults: Sequence[str], trainings: Sequence[Training]):
        self.out, self.seed, self.faults, self.trainings = out, seed, faults, trainings
        self.data, self.temporary, self.report = out / "data", out / "tmp", out / "soak.json"
        self.tether = Tether()
        self.environment = {**os.environ, "TMPDIR": str(self.temporary)}
        self.environment.pop("MOCODET_TRACEBACK", None)
        what = {"seed": seed, "faults": list(faults), "trainings": [training.name for training in trainings]}
        self.state: dict[str, Any] = {**what, "seconds": 0.0, "references": {}, "rounds": []}
        if self.report.is_file():
            self.state = read_json(self.report)
        if (found := {key: self.state[key] for key in what}) != what:
            raise ValueError(f"{self.report} is of {found}, not of {what}; give another folder")

    def prepare(self) -> None:
        """Make the data, unless they are there, some images of which cannot be read, and the references.

        Raises:
            ChildProcessError: a training does not end well without a fault.
        """
        self.temporary.mkdir(parents=True, exist_ok=True)
        if not self.data.exists():
            make_toy_data(self.data, seed=self.seed, train=40, test=16, unlabelled=384, size=96, workers=1)
        damage(self.data / "unlabelled")
        shutil.rmtree(self.out / "rounds" / "now", ignore_errors=True)
        for training in self.trainings:
            if training.name not in self.state["references"]:
                self.state["references"][training.name] = self.measure(training)
                self.state["seconds"] += self.state["references"][training.name]["seconds"]
                self.state["disk"] = self.disk()
                write_json(self.report, self.state)

    def disk(self) -> int:
        """Return the bytes in the folder, without those of rounds with violations."""
        return size_of(self.out) - size_of(self.out / "rounds")

    def command(self, training: Training, output: Path) -> list[str]:
        """Return the command of a training, which begins or goes on."""
        voc = {"KIND": "voc", "ROOT": str(self.data / "voc" / "VOC2007"), "CLASSES": list(TOY_CLASSES)}
        datasets = [{**voc, "NAME": f"toy_{split}", "SPLIT": split} for split in ("trainval", "test")]
        given = {"{data}": str(self.data), "{datasets}": repr(datasets), "{knn}": repr([{**voc, "SPLIT": "trainval"}])}
        words = [re.sub(r"\{\w+\}", lambda match: given[match[0]], word) for word in training.words]
        return [sys.executable, "-m", "mocodet", *words[:3], "--resume", *words[3:], "OUTPUT_DIR", str(output)]

    @contextmanager
    def started(self, training: Training, output: Path, terminal: Path) -> Iterator[Run]:
        """Start a training, and leave nothing of it when the block ends."""
        run = Run(training, self.command(training, output), output, terminal, self.environment, self.tether)
        try:
            yield run
        finally:
            run.end()

    def reference(self, training: Training) -> Path:
        """Return the OUTPUT_DIR of the uninterrupted run."""
        return self.out / "references" / training.name / "output"

    def measure(self, training: Training) -> dict[str, Any]:
        """Train without a fault; return seconds in all, to the first checkpoint and between two, memory and growth.

        Raises:
            ChildProcessError: it did not end well.
        """
        output = self.reference(training)
        folder = output.parent
        shutil.rmtree(folder, ignore_errors=True)
        output.mkdir(parents=True)
        times: list[float] = []
        with self.started(training, output, folder / "terminal.txt") as run:
            while run.wait(lambda: len(run.seen) > len(times)):
                times.append(run.seconds)
            seconds = run.seconds
        checkpoints = {name for name in names_in(output) if name.endswith(".pth")}
        if run.status or checkpoints != expected_checkpoints(training, ()):
            raise ChildProcessError(f"{folder}: status {run.status} without a fault, and {sorted(checkpoints)}")
        times = times[: training.iterations // training.period]
        gap = (times[-1] - times[0]) / (len(times) - 1)
        return {"seconds": seconds, "first": times[0], "gap": gap, "peak": run.peak, "growth": growth(run.samples)}

    def play(self) -> Round:
        """Run the next round, compare its end, enter it in the report; its folder stays if something was violated."""
        number = len(self.state["rounds"])
        training = self.trainings[number % len(self.trainings)]
        began, folder = time.monotonic(), self.out / "rounds" / "now"
        output = folder / "output"
        output.mkdir(parents=True)
        round_ = Round(number, training.name, shlex.join(self.command(training, output)))
        starts = []
        for strike in [*schedule(self.seed, number, training, self.faults), None]:
            starts.append(began_at(output, training))
            attempt = self.attempt(training, output, folder / f"terminal{len(starts)}.txt", strike)
            round_.attempts.append(attempt)
            round_.violations += attempt.pop("violations")
            if attempt["status"] == 0:
                round_.violations += other_end(training, self.reference(training), output, starts)
                break
        stopped = [one["stopped"] for one in round_.attempts if one["stopped"]]
        round_.violations += other_checkpoints(training, output, stopped)
        damage(self.data / "unlabelled")
        self.close(round_, folder, began)
        return round_

    def attempt(self, training: Training, output: Path, terminal: Path, strike: Strike | None) -> dict[str, Any]:
        """Let a training go on until a fault ends it, or to its end; return what came of it."""
        times, struck, after = self.state["references"][training.name], None, 0.0
        shared, violations = shared_memory(), []
        with self.started(training, output, terminal) as run:
            try:
                if strike and wait_for_moment(run, strike, times["first"], times["gap"]):
                    after = run.seconds
                    struck = hit(run, strike)
                run.wait()
            except TimeoutError as error:
                violations.append(f"{struck.what if struck else 'no fault'}: {error}")
                run.end()
            seconds = run.seconds
            if struck and strike and strike.fault == STOP_RANK:
                with suppress(ProcessLookupError):
                    os.kill(struck.pid, signal.SIGKILL)
            violations += [f"process {one.pid} is left over: {one.command[:80]}" for one in run.leave()]
        assert run.status is not None
        printed = run.printed()
        if strike and struck:
            violations += complaints(strike, struck, run.status, printed)
        elif run.status:
            violations.append(f"status {run.status} without a fault, and {printed.splitlines()[-1:]}")
        stopped = re.search(r"--resume goes on from (model_\d+\.pth)$", printed, re.MULTILINE)
        if stopped and run.newest() != stopped[1]:
            violations.append(f"the last checkpoint is {run.newest()}, not {stopped[1]}")
        left = {name for name in shared_memory() - shared if run.pids & set(map(int, re.findall(r"\d+", name)))}
        violations += [f"/dev/shm/{name} is left over" for name in sorted(left)]
        trend = growth(run.samples)
        violations += grown(trend)
        if strike and strike.remove_images:
            for name in skipped(output):
                (self.data / "unlabelled" / name).unlink(missing_ok=True)
        return {
            "fault": strike.fault if struck and strike else None,
            "moment": strike.moment if struck and strike else None,
            "what": struck.what if struck else None,
            "struck_after": after,
            "seconds": seconds,
            "status": run.status,
            "stopped": stopped[1] if stopped else None,
            "last_checkpoint": run.newest(),
            "peak": run.peak,
            "growth": trend,
            "violations": violations,
        }

    def close(self, round_: Round, folder: Path, began: float) -> None:
        """Put away what a round has made, look at what is left of it, and write the report."""
        for path in self.temporary.iterdir():
            round_.violations.append(f"{path} is left over")
            path.rename(folder / f"left_over_{path.name}")
        round_.disk = self.disk()
        if round_.disk > self.state["disk"] + MORE_DISK:
            round_.violations.append(f"{self.out} has grown from {self.state['disk']} bytes to {round_.disk}")
        if round_.violations:
            folder.rename(folder.with_name(f"{round_.number:04d}"))
        else:
            shutil.rmtree(folder)
        round_.seconds = time.monotonic() - began
        self.state["rounds"].append(asdict(round_))
        self.state["seconds"] += round_.seconds
        write_json(self.report, self.state)


def began_at(output: Path, training: Training) -> tuple[int, int]:
    """Return how many lines of metrics a folder has, and at which iteration a run there begins or goes on."""
    lines, tag = output / "metrics.json", output / LAST
    last = tag.read_text().strip() if tag.is_file() else ""
    return len(read_json_lines(lines)) if lines.is_file() else 0, next_iteration(last, training)


def other_checkpoints(training: Training, output: Path, stopped: Iterable[str]) -> list[str]:
    """Say so where a folder does not have the checkpoints that it must have at the end."""
    found = {path.name for path in output.glob("*.pth")}
    expected = expected_checkpoints(training, stopped)
    return [f"the checkpoints are {sorted(found)}, not {sorted(expected)}"] if found != expected else []


def shared_memory() -> set[str]:
    """Return the names of what is in shared memory, of all programs."""
    return {path.name for path in Path("/dev/shm").iterdir()}


# -------------------------------------------------------------------------------------------------------------- report


def table(state: Mapping[str, Any]) -> str:
    """Write what a soak found, for people."""
    rounds = state["rounds"]
    attempts = [(one["training"], attempt) for one in rounds for attempt in one["attempts"]]
    lines = [f"{len(rounds)} rounds in {duration(state['seconds'])}, seed {state['seed']}", ""]
    lines += ["| Training | rounds | starts | ended as the reference | peak memory, MiB | without a fault |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, reference in state["references"].items():
        mine = [one for one in rounds if one["training"] == name]
        good = sum(not one["violations"] for one in mine)
        peaks = [attempt["peak"] >> 20 for training, attempt in attempts if training == name] or [0]
        starts = sum(len(one["attempts"]) for one in mine)
        memory = f"{min(peaks)} to {max(peaks)} | {reference['peak'] >> 20}"
        lines.append(f"| {name.replace('_', ' ')} | {len(mine)} | {starts} | {good} | {memory} |")
    lines += ["", "| Fault | struck | exit statuses |", "|---|---|---|"]
    for fault in state["faults"]:
        statuses = Counter(attempt["status"] for _, attempt in attempts if attempt["fault"] == fault)
        told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        lines.append(f"| {fault} | {sum(statuses.values())} | {told} |")
    trends = [attempt["growth"] for _, attempt in attempts if attempt["growth"]]
    for name in ("memory", "files", "threads"):
        ratios = [trend[name][1] / trend[name][0] - 1 for trend in trends]
        if ratios:
            lines += [
                "",
                f"{name} late in a run against early: {min(ratios):+.1%} to {max(ratios):+.1%}, {len(ratios)} runs",
            ]
    if rounds:
        lines += ["", f"disk: {state['disk']} bytes before the first round, {rounds[-1]['disk']} after the last"]
    found = violations(state)
    return "\n".join([*lines, "", f"{len(found)} violations", *found])


def violations(state: Mapping[str, Any]) -> list[str]:
    """Return a line for each violation that a soak found."""
    return [
        f"round {one['number']}, seed {state['seed']}: {what}; {one['command']}"
        for one in state["rounds"]
        for what in one["violations"]
    ]


def main() -> None:
    """Soak until the hours are full, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "out", type=Path, nargs="?", default=Path("output/soak"), metavar="OUT", help="default: %(default)s"
    )
    parser.add_argument("--hours", type=float, default=2.0, metavar="N", help="earlier calls count (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the faults (default: 0)")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT", help=f"some of {FAULTS}"
    )
    names = [training.name for training in TRAININGS]
    parser.add_argument("--trainings", nargs="+", choices=names, default=names, metavar="NAME", help=f"some of {names}")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it, and theirs
    trainings = [training for training in TRAININGS if training.name in args.trainings]
    out = args.out.resolve()
    with errors_in_one_line(), told_in_one_line(), claim(out, work="soaks", instead="give another one"):
        soak = Soak(out, args.seed, args.faults, trainings)
        soak.prepare()
        while soak.state["seconds"] < args.hours * 3600:
            round_ = soak.play()
            told = ", ".join(f"{one['what'] or 'no fault'}: {one['status']}" for one in round_.attempts)
            print(f"round {round_.number}, {round_.training}, {duration(round_.seconds)}: {told}", flush=True)
            for what in round_.violations:
                print(f"  violated: {what}", flush=True)
        print(table(soak.state))
    sys.exit(bool(violations(soak.state)))


if __name__ == "__main__":
    main()
