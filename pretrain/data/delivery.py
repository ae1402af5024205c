"""Transfers batches from the loader processes to the training device, in advance if it is a GPU."""

import time
from collections.abc import Iterator

import torch

from .augment import STEPS
from .augment.batched import apply_steps
from .views import normalize

Batch = dict[str, torch.Tensor]


def prepare(batch: Batch, device: torch.device, memory_format: torch.memory_format) -> Batch:
    """Move a batch to a device, apply the remaining steps of its views there, and normalise the views.

    Args:
        batch: a batch from `Views` on the CPU, in pinned memory if ``device`` is a GPU. It contains views (uint8,
            N x 3 x S x S), steps of views, and other entries.
        device: the training device.
        memory_format: memory format of the views.

    Returns:
        the other entries and the views, which are float32, N x 3 x S x S, with approximately zero mean and unit
        variance.
    """
    prepared = {}
    for name, value in batch.items():
        if name.endswith(STEPS):
            continue  # steps stay on the CPU
        moved = value.to(device, non_blocking=True)
        if f"{name}{STEPS}" in batch:
            images = moved.to(torch.float32, memory_format=torch.contiguous_format)
            moved = apply_steps(images, batch[f"{name}{STEPS}"])
        prepared[name] = normalize(moved.contiguous(memory_format=memory_format)) if moved.ndim == 4 else moved
    return prepared


class Delivery:
    """Prepares batches for the device.

    On CUDA, the next batch is prepared on a separate stream while the device trains on the current one. Call
    `fetch_ahead` after a step has been queued. On other devices, batches are prepared when they are requested.

    Args:
        batches: an endless iterator of batches from loader processes.
        device, memory_format: see `prepare`.

    Attributes:
        waited: seconds that the latest batch spent waiting for the loader.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device, memory_format: torch.memory_format) -> None:
        self.batches, self.device, self.memory_format = batches, device, memory_format
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.waited = 0.0
        self._ahead: Batch | Exception | None = None

    def next(self) -> Batch:
        """Return the next batch, ready for use on the current stream of the device.

        Raises:
            ValueError: an image cannot be read. The message contains its name.
        """
        if self._ahead is None:
            self.fetch()
        batch, self._ahead = self._ahead, None
        if isinstance(batch, Exception):
            raise batch
        assert batch is not None
        if self.stream:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for value in batch.values():
                value.record_stream(current)  # prevents its memory from being reused before this stream has used it
        return batch

    def fetch_ahead(self) -> None:
        """Queue the preparation of the next batch, which can run in parallel with training.

        Errors are raised by the next call of `next`, so that the step that has just been queued is not lost.
        """
        if self.stream:
            self.fetch()

    def fetch(self) -> None:
        """Load the next batch, queue its preparation, and store the result or the error for `next`."""
        began = time.perf_counter()
        try:
            batch = next(self.batches)
            self.waited = time.perf_counter() - began
            with torch.cuda.stream(self.stream):  # has no effect without a stream
                self._ahead = prepare(batch, self.device, self.memory_format)
        except Exception as error:
            self._ahead = error
