import multiprocessing
import os
import signal
import time

import pytest
import torch
from detectron2.engine import TrainerBase
from torch.utils.data import DataLoader

from mocodet.common import stopping
from mocodet.common.stopping import SIGNALS, Stopped, StopWhenAsked, leave_signals_to_parent, passed_on
from tests.processes import run_in_processes


class Run(TrainerBase):
    """Steps that send a signal to their own process, and keep what is saved."""

    def __init__(self, signals: dict[int, int]):
        super().__init__()
        self.signals, self.saved, self.steps = signals, [], []
        self.register_hooks([StopWhenAsked(self)])

    def save(self, name: str, iteration: int) -> None:
        self.saved.append((name, iteration))

    def run_step(self) -> None:
        self.steps.append(self.iter)
        if self.iter in self.signals:
            os.kill(os.getpid(), self.signals[self.iter])


def handlers() -> list:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_stop_when_asked__checkpoint_of_the_step_then_the_end(caplog, number):
    run, before = Run({3: number}), handlers()
    with pytest.raises(Stopped) as caught:
        run.train(0, 10)
    assert caught.value.code == 128 + number
    assert run.steps == [0, 1, 2, 3]
    assert run.saved == [("model_0000003", 3)]
    assert handlers() == before
    assert caplog.messages[-1] == f"stopped by {number.name}; --resume continues from model_0000003.pth"
    assert "Traceback" not in caplog.text


def test_stop_when_asked__in_the_last_step_the_run_ends_as_ever():
    run, before = Run({4: signal.SIGTERM}), handlers()
    run.train(0, 5)
    assert (run.steps, run.saved, handlers()) == ([0, 1, 2, 3, 4], [], before)


def test_stop_when_asked__two_signals_in_a_second_are_one_and_a_later_one_ends_at_once(monkeypatch):
    def ended_by(same: float) -> int:
        if child := os.fork():
            return os.waitpid(child, 0)[1]
        try:
            monkeypatch.setattr(stopping, "SAME", same)
            run = Run({})
            run.run_step = lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]
            run.train(0, 5)
        except Stopped as stop:
            os._exit(int(stop.code))
        finally:
            os._exit(1)

    assert os.waitstatus_to_exitcode(ended_by(same=60.0)) == 128 + signal.SIGTERM
    assert os.waitstatus_to_exitcode(ended_by(same=0.0)) == -signal.SIGTERM


def asked_in_one(rank_asked: int) -> tuple[list[int], list, int]:
    rank = torch.distributed.get_rank()
    run = Run({3: signal.SIGUSR1} if rank == rank_asked else {})
    with pytest.raises(Stopped) as caught:
        run.train(0, 10)
    return run.steps, run.saved, int(caught.value.code)


def test_stop_when_asked__all_processes_after_the_same_step():
    first, second = run_in_processes(asked_in_one, 1)
    assert first == second == ([0, 1, 2, 3, 4], [("model_0000004", 4)], 128 + signal.SIGUSR1)


class Pids(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return os.getpid()


def test_leave_signals_to_parent__loaders_deliver_and_end_with_the_training():
    loader = iter(DataLoader(Pids(), 1, num_workers=1, worker_init_fn=lambda _: leave_signals_to_parent()))
    worker = int(next(loader))
    # A signal from this process is the parent's, so another one sends what the group gets.
    sender = multiprocessing.get_context("fork").Process(
        target=lambda: [os.kill(worker, number) for number in (*SIGNALS, signal.SIGTERM)]
    )
    sender.start()
    sender.join()
    assert {int(found) for found in loader} == {worker}
    (process,) = loader._workers
    process.terminate()
    process.join(10)
    assert not process.is_alive()


def exits_with_signal() -> None:
    signal.signal(signal.SIGUSR1, lambda number, _: os._exit(number))
    time.sleep(60)


def test_passed_on__to_what_was_spawned():
    process = multiprocessing.get_context("fork").Process(target=exits_with_signal)
    process.start()
    with passed_on() as found:
        while process.is_alive():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
    assert set(found) == {signal.SIGUSR1}
    assert process.exitcode in (signal.SIGUSR1, -signal.SIGUSR1)  # the second where it came before the handler
