"""A fine-tuning iteration in any precision, on any device, with one batch or multiple micro-batches."""

import time
from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer, TrainerBase
from torch import nn
from torch.utils.data import DataLoader

from mocodet.common.states import take_up


class AccumulatingTrainer(SimpleTrainer):
    """``SimpleTrainer`` that can accumulate the gradients of multiple micro-batches, in any precision.

    The loss of an update is the mean of the micro-batches' losses, just as it is the mean over the processes under
    ``DistributedDataParallel``. To the optimizer, N micro-batches in one process are therefore equivalent to N
    processes. Gradients are reduced across processes once, with the last micro-batch. Batch norm sees one micro-batch
    at a time.

    detectron2's ``AMPTrainer`` requires CUDA and always scales the loss. Here, autocast also works on a CPU, and the
    loss is scaled only for float16, because bfloat16 has the same range as float32.

    Args:
        model: a model that returns a dict of losses in training, with or without ``DistributedDataParallel``.
        data_loader: an endless loader of micro-batches.
        optimizer: the optimizer of the (float32) parameters of ``model``.
        micro_batches: number of micro-batches per update.
        device_type: ``"cuda"`` or ``"cpu"``, for autocast.
        dtype: the data type for autocast; None disables autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: DataLoader,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batches: int = 1,
        device_type: str = "cpu",
        dtype: torch.dtype | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self._micro_batches = micro_batches
        self._device_type = device_type
        self._dtype = dtype
        self._scaler = torch.amp.GradScaler(device_type, enabled=dtype == torch.float16)

    def run_step(self) -> None:
        """Run one iteration: data, losses and gradients of each micro-batch, then metrics and the update.

        The logged losses are means over the micro-batches, and ``data_time`` is the sum of their waiting times.

        Raises:
            FloatingPointError: a loss is not finite (on the main process). Nothing is updated.
        """
        if not self.model.training:
            raise RuntimeError("the model was switched to evaluation mode during training")
        means: dict[str, torch.Tensor | float] = defaultdict(float)
        data_time = 0.0
        self.optimizer.zero_grad()
        for number in range(1, self._micro_batches + 1):
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            # DDP decides in the forward pass whether the backward pass reduces gradients across processes.
            with nullcontext() if number == self._micro_batches else getattr(self.model, "no_sync", nullcontext)():
                with torch.autocast(self._device_type, dtype=self._dtype, enabled=self._dtype is not None):
                    losses = self.model(data)
                self._scaler.scale(sum(losses.values()) / self._micro_batches).backward()
            for name, loss in losses.items():
                means[name] = means[name] + loss.detach() / self._micro_batches
        self.after_backward()
        self._write_metrics(means, data_time)
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def end_loader(self) -> None:
        """End the loader processes, because those that outlive this process are killed and leave files in TMPDIR."""
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of ``SimpleTrainer`` and, if enabled, of the loss scaler."""
        return super().state_dict() | ({"grad_scaler": self._scaler.state_dict()} if self._scaler.is_enabled() else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``. A run resumed in another precision starts with a new loss scale.

        Raises:
            ValueError: see `take_up`.
        """
        TrainerBase.load_state_dict(self, state_dict)
        take_up("optimizer", self.optimizer, state_dict["optimizer"])
        if self._scaler.is_enabled() and state_dict.get("grad_scaler"):
            take_up("grad_scaler", self._scaler, state_dict["grad_scaler"])
