"""What the log of a pre-training run says, and when: hooks and a writer of detectron2's."""

import datetime
import logging

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventWriter, get_event_storage

logger = logging.getLogger("mocodet.pretrain")

# What a line shows beside progress and speed, where there is a value; then whatever else the step returned.
FORMATS = {"loss": ".3f", "accuracy": ".1%", "accuracy_in_batch": ".1%", "lr": ".4g", "data_time": ".3f"}


class Throughput(HookBase):
    """Logs ``images_per_second``, over all processes; it must come after detectron2's ``IterationTimer``."""

    def __init__(self, images_per_batch: int) -> None:
        self.images_per_batch = images_per_batch

    def after_step(self) -> None:
        """Turn the last iteration's time into a rate."""
        if latest := self.trainer.storage.histories().get("time"):
            self.trainer.storage.put_scalar("images_per_second", self.images_per_batch / latest.latest())


class LogWriter(hooks.PeriodicWriter):
    """Writes every so many iterations, and whenever an evaluator measured: writers keep only the latest value."""

    def after_step(self) -> None:
        """Write when the period, the run or an evaluation ends with this iteration."""
        storage = self.trainer.storage
        if any(
            name.endswith("top1") and iteration == storage.iter for name, (_, iteration) in storage.latest().items()
        ):
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()


class PretrainPrinter(EventWriter):
    """Prints a line: progress, time left, images/s, loss, accuracies, learning rate; medians over 20 iterations.

    Args:
        max_iter: iterations of the whole run.
        iterations_per_epoch: to show the epoch.
    """

    def __init__(self, max_iter: int, iterations_per_epoch: int) -> None:
        self.max_iter = max_iter
        self.iterations_per_epoch = iterations_per_epoch

    def write(self) -> None:
        """Log one line from the current `EventStorage`."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(window_size=20)
        values = {name: value for name, (value, iteration) in latest.items() if iteration == storage.iter}
        fields = [f"epoch {storage.iter / self.iterations_per_epoch:.2f}", f"iter {storage.iter}/{self.max_iter}"]
        if "time" in values:
            left = values["time"] * max(0, self.max_iter - 1 - storage.iter)
            fields.append(f"eta {datetime.timedelta(seconds=int(left))}")
            fields.append(f"{values['images_per_second']:.1f} img/s")
        fields += [f"{name} {values[name]:{form}}" for name, form in FORMATS.items() if name in values]
        others = [name for name in values if name not in (*FORMATS, "time", "images_per_second")]
        fields += [f"{name} {values[name]:.4g}" for name in others]
        if torch.cuda.is_available():
            fields.append(f"mem {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        logger.info("  ".join(fields))
