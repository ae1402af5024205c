import io
import json
import os
from pathlib import Path

import pytest

from mocodet.common.study import live
from mocodet.common.study.live import Progress, Running, View, read_progress, time_left
from mocodet.common.study.state import Outcome
from mocodet.common.study.trials import Trial


def trial(init, seed, detector="A", fraction=1.0):
    return Trial(detector, init, fraction, seed, Path(detector, init, str(fraction), str(seed)), Path("x"), {}, True)


def finished(seconds, whole=True):
    return Outcome("finished", seconds=seconds, whole=whole)


A, B, C, D = (trial("moco", seed) for seed in range(4))


@pytest.mark.parametrize(
    ("waiting", "running", "outcomes", "slots", "expected"),
    [
        ([A], [], {}, 1, None),
        ([A], [], {B: finished(600, whole=False), C: Outcome("failed", "x", seconds=5)}, 1, None),
        ([A], [], {B: finished(600), C: finished(300)}, 1, 450),
        ([A, B], [Running(C, 100, None)], {D: finished(600)}, 1, 1700),
        ([A, B], [Running(C, 100, None)], {D: finished(600)}, 2, 850),
        ([], [Running(C, 700, None)], {D: finished(600)}, 2, 0),
        # The progress of a running trial is known: 100 seconds done, 500 left.
        ([A], [Running(C, 100, Progress(5, 10, 500.0))], {}, 1, 1100),
        # The longest of the running ones decides.
        ([], [Running(C, 0, Progress(5, 10, 500.0)), Running(D, 0, Progress(9, 10, 10.0))], {}, 2, 500),
        # A resumed trial does not show how long a whole one takes.
        ([], [Running(C, 100, Progress(5, 10, 500.0), whole=False)], {}, 1, 500),
        ([A], [Running(C, 100, Progress(5, 10, 500.0), whole=False)], {}, 1, None),
        ([A], [Running(C, 100, Progress(5, 10, 500.0), whole=False)], {D: finished(600)}, 1, 1100),
        # Another detector, or another fraction, takes its own time.
        (
            [A],
            [],
            {B: finished(600), trial("moco", 0, "B"): finished(6), trial("moco", 0, "A", 0.1): finished(6)},
            1,
            600,
        ),
        ([trial("moco", 1, "B")], [], {B: finished(600), trial("moco", 0, "B"): finished(6)}, 1, 6),
    ],
)
def test_time_left(waiting, running, outcomes, slots, expected):
    assert time_left(waiting, running, outcomes, slots) == expected


def test_read_progress(tmp_path):
    (tmp_path / "config.yaml").write_text("SOLVER:\n  MAX_ITER: 600\n")
    log = tmp_path / "metrics.json"
    assert read_progress(tmp_path, 0) is None
    log.write_text('{"iteration": 19, "eta_seconds": 90.0}\n{"iteration": 39, "eta_seconds": 80.0}\n{"iterat')
    now = log.stat().st_mtime
    assert read_progress(tmp_path, now + 1) is None, "an earlier start wrote that"
    progress = read_progress(tmp_path, now - 1)
    assert progress[:2] == (40, 600)
    assert 60 < progress.left <= 80
    log.write_text("{}\n")
    assert read_progress(tmp_path, now - 1) is None
    log.write_text(json.dumps({"iteration": 600}) + "\n")
    assert read_progress(tmp_path, now - 1) == (600, 600, None)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, monkeypatch):
    times = iter([0.0, 5.0, 70.0, 80.0, 90.0])
    monkeypatch.setattr(live.shutil, "get_terminal_size", lambda: os.terminal_size((60, 10)))
    view = View("toy", 5, 2, stream, clock=lambda: next(times))
    due = view.due()
    view.say("moco, seed 3: training")
    outcomes = {A: finished(600), B: Outcome("failed", "x")}
    view.show([trial("moco", 4)], [Running(C, 100, None), Running(D, 60, Progress(5, 10, 500.0))], outcomes)
    return view, due


LINES = [
    "toy: 1 of 5 finished, 1 failed, 2 running, 1 waiting, about 13 min left",
    "moco, seed 2: started 2 min ago",
    "moco, seed 3: iteration 5 of 10, about 8 min left",
]


def test_view__in_a_log(monkeypatch):
    stream = io.StringIO()
    view, due = shown(stream, monkeypatch)
    assert due is False
    assert stream.getvalue().splitlines() == ["moco, seed 3: training", "; ".join(LINES)]
    view.close()


def test_view__on_a_terminal_a_block_is_redrawn(monkeypatch):
    stream = Terminal()
    view, due = shown(stream, monkeypatch)
    assert due is True
    block = [LINES[0][:59], *(f"  {line}"[:59] for line in LINES[1:])]
    assert stream.getvalue().splitlines() == ["moco, seed 3: training", *block]
    view.say("moco, seed 2: finished")
    assert stream.getvalue().endswith(f"{block[-1]}\n\x1b[3A\x1b[Jmoco, seed 2: finished\n")
    view.close()
    assert stream.getvalue().endswith("finished\n"), "no block is left to be taken away"
