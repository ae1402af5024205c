"""Training of a study's trials, which runs one trial at a time in each slot."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from .live import Running, View, read_progress
from .placement import Slot
from .process import LOG_FILE, Tether, TrialProcess
from .recipe import Recipe
from .state import Outcome, State, conclude, prepare
from .trials import Trial

POLL = 0.1  # seconds


class Interruption(KeyboardInterrupt):
    """Raised when a signal requests that the study end; ``args[0]`` is the signal number."""


class Engine:
    """Runs each trial once, in a separate process and in a slot that it does not share.

    Args:
        recipes: recipes of the trials, in the order of training.
        states: states of the trials. Finished trials are not run again.
        places: slots for trials, each of which runs one trial at a time.
        command: the training command, up to ``--config-file``.
        view: displays the progress of the study.
        changed: function that is called whenever a trial has started or ended.

    Attributes:
        outcomes: outcomes of all trials that have ended, including those that finished in an earlier run.
    """

    def __init__(
        self,
        recipes: Mapping[Trial, Recipe],
        states: Mapping[Trial, State],
        places: Sequence[Slot],
        command: Sequence[str],
        view: View,
        changed: Callable[[], None],
    ):
        self._recipes, self._states, self._command, self._view, self._changed = recipes, states, command, view, changed
        self._free = list(places)
        self._waiting = [trial for trial, state in states.items() if state.status != "finished"]
        self._running: dict[Trial, tuple[TrialProcess, Slot, float]] = {}
        self._tether = Tether()
        self.outcomes: dict[Trial, Outcome] = {
            trial: state.outcome for trial, state in states.items() if state.status == "finished" and state.outcome
        }

    @property
    def running(self) -> list[Trial]:
        """The running trials."""
        return list(self._running)

    def run(self) -> None:
        """Train all unfinished trials. If a trial fails, the others continue.

        On SIGINT, SIGTERM and SIGHUP, and on any error, the running trials are stopped and their checkpoints are kept.

        Raises:
            Interruption: one of these signals was received.
        """
        try:
            with _signals_raise():
                while self._waiting or self._running:
                    while self._waiting and self._free:
                        self._start(self._waiting.pop(0), self._free.pop(0))
                    self._look_after()
                    if self._view.due():
                        self._view.show(self._waiting, self._progress(), self.outcomes)
                    time.sleep(POLL)
        finally:
            self._view.close()
            for process, _, _ in self._running.values():
                process.ask_to_end()
            for process, _, _ in self._running.values():
                process.end()
            self._running.clear()
            self._tether.close()

    def _start(self, trial: Trial, place: Slot) -> None:
        state = self._states[trial]
        prepare(trial, self._recipes[trial], state)
        command = [*self._command, *place.flags(), *(["--resume"] if state.resume else []), *trial.words()]
        process = TrialProcess(command, trial.folder, place.environment(os.environ), self._tether)
        self._running[trial] = process, place, time.time()
        self._changed()
        where = f" on GPU {', '.join(place.gpus)}" if place.gpus else ""
        self._view.say(f"{trial}: {'resuming' if state.resume else 'training'}{where} in {trial.folder}")

    def _look_after(self) -> None:
        """Record the trials that have ended."""
        for trial, (process, place, _) in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            del self._running[trial]
            self._free.append(place)
            reason = process.reason() if status else ""
            whole = not self._states[trial].resume
            outcome = self.outcomes[trial] = conclude(trial.folder, status, reason, process.seconds, whole)
            self._changed()
            self._view.say(f"{trial}: {outcome.status}" + (f", {outcome.reason}" if outcome.reason else ""))

    def _progress(self) -> list[Running]:
        return [
            Running(trial, process.seconds, read_progress(trial.folder, since), not self._states[trial].resume)
            for trial, (process, _, since) in self._running.items()
        ]


def failures(output_of: Mapping[Trial, Outcome]) -> list[str]:
    """Return one line for each failed trial, which describes the failure."""
    return [
        f"{trial} failed: {outcome.reason} (output: {trial.folder / LOG_FILE})"
        for trial, outcome in output_of.items()
        if outcome.status == "failed"
    ]


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Raise `Interruption` in the block on a signal that would otherwise end this process immediately."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Interruption(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # An ignored signal, such as SIGHUP under nohup, stays ignored.
    before = {
        number: signal.signal(number, raise_it) for number in numbers if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
