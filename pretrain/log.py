"""Hooks and writers that log a pre-training run, for detectron2's engine."""

import datetime
import logging
from collections.abc import Mapping, Sequence

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from .evaluation.accuracy import Evaluator

logger = logging.getLogger("mocodet.pretrain")

# Formats of the values that follow progress and speed in a log line, if available. Other outputs of the step come last.
FORMATS = {
    "loss": ".3f",
    "accuracy": ".1%",
    "accuracy_in_batch": ".1%",
    "accuracy_dense": ".1%",
    "same_place": ".1%",
    "lr": ".4g",
    "data_time": ".3f",
}


def form_of(name: str) -> str:
    """Return the format of a value: its entry in `FORMATS`, percent for other accuracies, or else four digits."""
    return FORMATS.get(name, ".1%" if name.startswith("accuracy") else ".4g")


class Throughput(HookBase):
    """Logs ``images_per_second`` over all processes. Register it after detectron2's ``IterationTimer``."""

    def __init__(self, images_per_batch: int) -> None:
        self.images_per_batch = images_per_batch

    def after_step(self) -> None:
        """Convert the duration of the last iteration to images per second."""
        if latest := self.trainer.storage.histories().get("time"):
            self.trainer.storage.put_scalar("images_per_second", self.images_per_batch / latest.latest())


def chance_name(name: str) -> str:
    """Return the name under which the chance level of an output is logged."""
    return f"{name}_chance"


class LogWriter(hooks.PeriodicWriter):
    """Writes every ``period`` iterations and after each evaluation, because writers only keep the latest value.

    Args:
        writers: see `detectron2.engine.hooks.PeriodicWriter`.
        period: number of iterations between writes.
        evaluators: the evaluators of the trainer.
        chance: see `Method.chance`. Chance levels are constant and are written once, with the first values.
    """

    def __init__(
        self,
        writers: Sequence[EventWriter],
        period: int,
        evaluators: Sequence[Evaluator] = (),
        chance: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(writers, period)
        self.evaluators = evaluators
        self.unwritten = {chance_name(name): level for name, level in (chance or {}).items()}

    def after_step(self) -> None:
        """Write if a period, the run or an evaluation ends after this iteration."""
        done = self.trainer.iter + 1
        measured = any(evaluator.is_due() for evaluator in self.evaluators)
        if measured or done % self._period == 0 or done == self.trainer.max_iter:
            self.trainer.storage.put_scalars(smoothing_hint=False, **self.unwritten)
            self.unwritten = {}
            for writer in self._writers:
                writer.write()


class TensorboardWriter(TensorboardXWriter):
    """Writes scalars for TensorBoard and shows each chance level as a horizontal line over the full run.

    The "Custom scalars" tab shows each curve together with its chance level. In the list of scalars, ``loss_chance``
    is next to ``loss``.

    Args:
        log_dir: folder for the event files.
        chance: see `Method.chance`.
        max_iter: number of iterations in the full run.
    """

    def __init__(self, log_dir: str, chance: Mapping[str, float], max_iter: int) -> None:
        super().__init__(log_dir)
        self.chance, self.last = chance, max_iter - 1
        self.began = False

    def write(self) -> None:
        """Write the latest values and, after the first ones, the right end points of the chance-level lines.

        The end points must be written early: TensorBoard interprets a decreasing step as a restarted run and discards
        all later steps.
        """
        super().write()
        if self.began:
            return
        self.began = True
        charts = {name: ["Multiline", [name, chance_name(name)]] for name in self.chance}
        self._writer.add_custom_scalars({"beside chance": charts})
        for name, level in self.chance.items():
            self._writer.add_scalar(chance_name(name), level, self.last)


class PretrainPrinter(EventWriter):
    """Logs lines with progress, time left, images/s, loss, accuracies and learning rate, as medians of 20 iterations.

    Args:
        max_iter: number of iterations in the full run.
        iterations_per_epoch: number of iterations per epoch, used to display the epoch.
        chance: chance levels to display next to the outputs; see `Method.chance`.
    """

    def __init__(self, max_iter: int, iterations_per_epoch: int, chance: Mapping[str, float]) -> None:
        self.max_iter = max_iter
        self.iterations_per_epoch = iterations_per_epoch
        self.chance = chance

    def write(self) -> None:
        """Log one line with the values of the current `EventStorage`."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(window_size=20)
        values = {name: value for name, (value, iteration) in latest.items() if iteration == storage.iter}
        fields = [f"epoch {storage.iter / self.iterations_per_epoch:.2f}", f"iter {storage.iter}/{self.max_iter}"]
        if "time" in values:
            left = values["time"] * max(0, self.max_iter - 1 - storage.iter)
            fields.append(f"eta {datetime.timedelta(seconds=int(left))}")
            fields.append(f"{values['images_per_second']:.1f} img/s")
        shown = [name for name in FORMATS if name in values]
        apart = {*FORMATS, "time", "images_per_second", *map(chance_name, self.chance)}
        shown += [name for name in values if name not in apart]
        fields += [f"{name} {values[name]:{form_of(name)}}{self._beside(name)}" for name in shown]
        if torch.cuda.is_available():
            fields.append(f"mem {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        logger.info("  ".join(fields))

    def _beside(self, name: str) -> str:
        """Return the chance level of an output in brackets, if any. Only the loss includes the word "chance"."""
        if name not in self.chance:
            return ""
        level = self.chance[name]
        return f" ({100 * level:.3g}%)" if form_of(name).endswith("%") else f" (chance {level:.2f})"
