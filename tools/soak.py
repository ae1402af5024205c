#!/usr/bin/env python3
"""Train for hours with injected faults, and check that nothing is lost or left behind.

The rounds alternate between small pre-training and fine-tuning runs on generated data. In each round, faults selected
by the seed occur at random moments, and the same command continues each time with --resume. The final state must be
bit-identical to that of an uninterrupted reference run, and the exit statuses and messages must be those documented in
docs/reliability.md.

OUT/soak.json is updated with the results after every round. The same command continues with the next round until the
hours are used up. The exit status is 1 if a check failed; the folders of rounds with failures are kept.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soaking.ends import names_in, other_end, skipped
from soaking.faults import FAULTS, KILL_LOADER, STOP_RANK, Strike, complaints, hit, schedule, wait_for_moment
from soaking.processes import Run, grown, growth
from soaking.trainings import TRAININGS, Training

from mocodet.common.checkpoint import name_of_last
from mocodet.common.errors import errors_in_one_line, told_in_one_line
from mocodet.common.files import read_json, read_json_lines, write_json
from mocodet.common.locks import claim
from mocodet.common.progress import duration
from mocodet.common.study.process import Tether
from mocodet.detection.data.toy import TOY_CLASSES, make_toy_data

MORE_DISK = 1 << 20  # bytes by which OUT may grow after the first round before this is a violation
# A cache that all programs of a user share, and the error text of one of multiple processes.
BY_TORCH = re.compile(r"torchinductor_.*|pytorch-errorfile-.*")
# A folder of Python's multiprocessing, and an empty file with which PyTorch's data loader counts the open files.
BY_KILLED = re.compile(r"pymp-.*|tmp\w{8}")


@dataclass
class Round:
    """The results of a round, which are stored in ``soak.json``."""

    number: int
    training: str
    command: str
    attempts: list[dict[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    disk: int = 0  # bytes in the soak folder, excluding rounds with violations


def damage(folder: Path) -> None:
    """Write four files that are named like images but cannot be read as images."""
    sound = next(path for path in sorted(folder.iterdir()) if not path.name.startswith("damaged")).read_bytes()
    contents = (b"", b"no image", sound[: len(sound) // 2], b"PK\x03\x04" + bytes(200))
    for number, content in enumerate(contents):
        (folder / f"damaged{number}.jpg").write_bytes(content)


class Soak:
    """A series of training runs with injected faults, in a folder.

    Args:
        out: the folder.
        seed: the seed that selects the faults.
        faults: the faults that may occur.
        trainings: the training runs, which are started in turn.

    Raises:
        ValueError: the folder contains a soak with another seed, other faults or other training runs.
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
            raise ValueError(f"{self.report} records a soak of {found}, not of {what}; choose another folder")

    def prepare(self) -> None:
        """Create the data, some images of which cannot be read, and run the references, unless they exist.

        Raises:
            ChildProcessError: a training run without faults did not end as expected.
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
        """Return the number of bytes in the folder, excluding rounds with violations."""
        return size_of(self.out) - size_of(self.out / "rounds")

    def command(self, training: Training, output: Path) -> list[str]:
        """Return the command that starts or resumes a training run."""
        voc = {"KIND": "voc", "ROOT": str(self.data / "voc" / "VOC2007"), "CLASSES": list(TOY_CLASSES)}
        datasets = [{**voc, "NAME": f"toy_{split}", "SPLIT": split} for split in ("trainval", "test")]
        given = {"{data}": str(self.data), "{datasets}": repr(datasets), "{knn}": repr([{**voc, "SPLIT": "trainval"}])}
        words = [re.sub(r"\{\w+\}", lambda match: given[match[0]], word) for word in training.words]
        return [sys.executable, "-m", "mocodet", *words[:3], "--resume", *words[3:], "OUTPUT_DIR", str(output)]

    @contextmanager
    def started(self, training: Training, output: Path, terminal: Path) -> Iterator[Run]:
        """Start a training run, and end all of its processes when the block ends."""
        run = Run(training, self.command(training, output), output, terminal, self.environment, self.tether)
        try:
            yield run
        finally:
            run.end()

    def reference(self, training: Training) -> Path:
        """Return the OUTPUT_DIR of the uninterrupted reference run."""
        return self.out / "references" / training.name / "output"

    def measure(self, training: Training) -> dict[str, Any]:
        """Train without faults and measure the run.

        Returns:
            the seconds in total, until the first checkpoint and between two checkpoints, the peak memory, and the
            result of `growth`.

        Raises:
            ChildProcessError: the run did not end as expected.
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
        if run.status or checkpoints != training.checkpoints():
            raise ChildProcessError(
                f"{folder}: status {run.status} without a fault; the checkpoints are {sorted(checkpoints)}"
            )
        if left := left_over(self.temporary, 0):
            raise ChildProcessError(f"{folder}: a run without a fault left {left} behind")
        times = times[: training.iterations // training.period]
        gap = (times[-1] - times[0]) / (len(times) - 1)
        return {"seconds": seconds, "first": times[0], "gap": gap, "peak": run.peak, "growth": growth(run.samples)}

    def play(self) -> Round:
        """Run the next round, check its final state and add it to the report; keep its folder if a check failed."""
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
                round_.violations += other_end(self.reference(training), output, starts)
                break
        stopped = [one["stopped"] for one in round_.attempts if one["stopped"]]
        checkpoints = {path.name for path in output.glob("*.pth")}
        if checkpoints != (expected := training.checkpoints(stopped)):
            round_.violations.append(f"the checkpoints are {sorted(checkpoints)}, expected {sorted(expected)}")
        damage(self.data / "unlabelled")
        self.close(round_, folder, began)
        return round_

    def attempt(self, training: Training, output: Path, terminal: Path, strike: Strike | None) -> dict[str, Any]:
        """Train until a fault ends the run or it finishes, and return the outcome."""
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
            violations += [f"process {one.pid} was left behind: {one.command[:80]}" for one in run.leave()]
        assert run.status is not None
        printed = run.printed()
        if strike and struck:
            violations += complaints(strike, struck, run.status, printed)
        elif run.status:
            violations.append(f"status {run.status} without a fault; the last line is {printed.splitlines()[-1:]}")
        stopped = re.search(r"--resume .*from (model_\d+\.pth)$", printed, re.MULTILINE)
        if stopped and run.newest() != stopped[1]:
            violations.append(f"the last checkpoint is {run.newest()}, expected {stopped[1]}")
        left = {name for name in shared_memory() - shared if run.pids & set(map(int, re.findall(r"\d+", name)))}
        violations += [f"/dev/shm/{name} was left behind" for name in sorted(left)]
        trend = growth(run.samples)
        violations += grown(trend)
        if strike and strike.remove_images and run.newest():  # without a checkpoint, the next attempt starts again
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
        """Remove the files of a round, check for leftovers, and write the report."""
        ended = Counter(attempt["fault"] == KILL_LOADER or attempt["status"] < 0 for attempt in round_.attempts)[True]
        for path in left_over(self.temporary, ended):
            round_.violations.append(f"{path} was left behind")
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
    """Return the number of metrics lines in a folder, and the iteration at which a run starts or resumes there."""
    lines = output / "metrics.json"
    return len(read_json_lines(lines)) if lines.is_file() else 0, training.next_iteration(name_of_last(output))


def left_over(temporary: Path, ended: int) -> list[Path]:
    """Return the temporary files that a round has left behind, except those of PyTorch, and remove all of them.

    Args:
        temporary: the folder of the temporary files.
        ended: the number of processes that were killed, each of which may have left something of Python's or PyTorch's.
    """
    found = sorted(path for path in temporary.iterdir() if not BY_TORCH.fullmatch(path.name))
    excused = [path for path in found if BY_KILLED.fullmatch(path.name)][:ended]
    shutil.rmtree(temporary)
    temporary.mkdir()
    return [path for path in found if path not in excused]


def size_of(folder: Path) -> int:
    """Return the total size of all files in a folder in bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def shared_memory() -> set[str]:
    """Return the names of all files in shared memory, including those of other programs."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def table(state: Mapping[str, Any]) -> str:
    """Format the results of a soak as Markdown."""
    rounds = state["rounds"]
    attempts = [(one["training"], attempt) for one in rounds for attempt in one["attempts"]]
    lines = [f"{len(rounds)} rounds in {duration(state['seconds'])}, seed {state['seed']}", ""]
    lines += ["| Training | rounds | starts | same end as the reference | peak memory, MiB | without a fault |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, reference in state["references"].items():
        mine = [one for one in rounds if one["training"] == name]
        good = sum(not one["violations"] for one in mine)
        peaks = [attempt["peak"] >> 20 for training, attempt in attempts if training == name] or [0]
        starts = sum(len(one["attempts"]) for one in mine)
        memory = f"{min(peaks)} to {max(peaks)} | {reference['peak'] >> 20}"
        lines.append(f"| {name.replace('_', ' ')} | {len(mine)} | {starts} | {good} | {memory} |")
    lines += ["", "| Fault | occurrences | exit statuses |", "|---|---|---|"]
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
    """Run rounds until the hours are used up, then print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        default=Path("output/soak"),
        metavar="OUT",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument(
        "--hours", type=float, default=2.0, metavar="N", help="total hours to run, including earlier calls (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the faults (default: 0)")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT", help=f"faults to inject, from {FAULTS}"
    )
    names = [training.name for training in TRAININGS]
    parser.add_argument(
        "--trainings",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"training runs to use, from {names}",
    )
    args = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it, as do their children
    trainings = [training for training in TRAININGS if training.name in args.trainings]
    out = args.out.resolve()
    with errors_in_one_line(), told_in_one_line(), claim(out, work="soaks", instead="choose another folder"):
        soak = Soak(out, args.seed, args.faults, trainings)
        soak.prepare()
        while soak.state["seconds"] < args.hours * 3600:
            round_ = soak.play()
            told = ", ".join(f"{one['what'] or 'no fault'}: {one['status']}" for one in round_.attempts)
            print(f"round {round_.number}, {round_.training}, {duration(round_.seconds)}: {told}", flush=True)
            for what in round_.violations:
                print(f"  violation: {what}", flush=True)
        print(table(soak.state))
    sys.exit(bool(violations(soak.state)))


if __name__ == "__main__":
    main()
