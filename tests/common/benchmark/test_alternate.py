"""Measuring in turn, by a clock that the contestants move themselves."""

import subprocess
import sys

import pytest
import torch

from mocodet.common.benchmark.alternate import CPU, WALL, Clock, Spread, alternate, clock_of, ratio


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def contestant(self, name: str, durations: list[float]):
        left = iter(durations)

        def run() -> None:
            self.log.append(name)
            self.now += next(left)

        return run

    def between(self) -> None:
        self.now += 1000.0


def test_alternate__times_every_round_and_only_the_runs():
    time = FakeTime()
    contestants = {
        "slow": time.contestant("slow", [50.0, 6.0, 8.0, 10.0]),
        "fast": time.contestant("fast", [70.0, 2.0, 4.0, 2.0]),
    }
    seconds = alternate(contestants, 3, Clock("fake", lambda: time.now), before=time.between)
    assert seconds == {"slow": [6.0, 8.0, 10.0], "fast": [2.0, 4.0, 2.0]}
    # A warm-up of each, then there and back.
    assert time.log == ["slow", "fast", "slow", "fast", "fast", "slow", "slow", "fast"]
    # 3, 2 and 5 times as fast: of pairs, not of medians (8 / 2).
    assert ratio(seconds, "slow", "fast") == Spread(3.0, 2.5, 4.0)
    assert ratio(seconds, "slow", "slow") == Spread(1.0, 1.0, 1.0)


def test_alternate__without_warm_up():
    time = FakeTime()
    seconds = alternate(
        {"a": time.contestant("a", [5.0])}, 1, Clock("fake", lambda: time.now), warm_up=0, before=time.between
    )
    assert seconds == {"a": [5.0]}


def test_spread__of_one_value():
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0)


def test_cpu_time__counts_processes_that_have_ended():
    code = "import time\nwhile time.process_time() < 0.3: pass"
    before = CPU.now()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert CPU.now() - before >= 0.3


@pytest.mark.parametrize(("threads", "expected"), [(1, CPU), (2, WALL)])
def test_clock_of__several_threads_are_timed_by_the_wall(threads, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert clock_of(torch.device("cpu")) is expected
