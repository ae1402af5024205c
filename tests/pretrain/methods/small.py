"""What the tests of the mechanisms share: a small encoder, its training by the package, and a slow training to compare.

The slow one knows nothing of processes, groups and batched arithmetic: each "device" is a copy of the encoder with
buffers of its own that encodes its rows with plain batch norm; scores are taken one by one, and SGD is written out.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from mocodet.common.launch import distribute
from mocodet.pretrain.methods.grouped_bn import GroupedBatchNorm2d

DIM, TEMPERATURE, LR, SGD_MOMENTUM, DECAY = 6, 0.2, 0.05, 0.9, 1e-4
BATCH, SEED = 8, 3


def small_encoder(groups: int) -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        nn.BatchNorm2d(5) if groups == 1 else GroupedBatchNorm2d(5, groups),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(20, DIM),
    )


def encoder_with_maps(layer4: nn.Module, width: int) -> nn.Module:
    """A network with the children of a ResNet that dense contrast uses; ``layer4`` maps to ``width`` channels."""
    return nn.Sequential(
        OrderedDict(layer4=layer4, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(width, DIM))
    )


def image_batches(views: Sequence[str], steps: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(11)
    return [{name: torch.randn(BATCH, 3, 6, 6, generator=generator) for name in views} for _ in range(steps)]


@dataclass
class Training:
    """The results of each step: of the package in one process, or of the slow training on each device."""

    outputs: list[dict] = field(default_factory=list)  # loss and accuracies
    states: list = field(default_factory=list)  # state dicts after the step


def train(method: nn.Module, batches: list[dict[str, torch.Tensor]]) -> Training:
    """Train a method of the package on this process's rows of each batch."""
    from detectron2.utils import comm

    model = distribute(method)
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LR, momentum=SGD_MOMENTUM, weight_decay=DECAY)
    rows = BATCH // comm.get_world_size()
    mine = slice(comm.get_rank() * rows, (comm.get_rank() + 1) * rows)
    training = Training()
    for iteration, batch in enumerate(batches):
        method.begin_step(iteration, len(batches))
        outputs = model({name: values[mine] for name, values in batch.items()})
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
        training.outputs.append({name: value.item() for name, value in outputs.items()})
        training.states.append({name: value.clone() for name, value in method.state_dict().items()})
    return training


def on_devices(encoder: nn.Module, devices: int) -> list[nn.Module]:
    """Copy an encoder for each device, with shared parameters and separate buffers."""
    shared = {id(parameter): parameter for parameter in encoder.parameters()}
    return [copy.deepcopy(encoder, dict(shared)) for _ in range(devices)]


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.pow(2).sum().sqrt()


def encode(encoders: list[nn.Module], images: torch.Tensor, order: Sequence[int] = tuple(range(BATCH))) -> list:
    """Return the unit vector of each image when device d encodes the d-th part of ``order``."""
    rows = BATCH // len(encoders)
    vectors = [None] * BATCH
    for device, encoder in enumerate(encoders):
        here = order[device * rows : (device + 1) * rows]
        for image, vector in zip(here, encoder(torch.stack([images[image] for image in here])), strict=True):
            vectors[image] = unit(vector)
    return vectors


def contrast(scores: list[list[torch.Tensor]]) -> dict[str, list]:
    """InfoNCE of each row of scores, with the positive's score first, and whether that is the highest."""
    losses = [torch.logsumexp(torch.stack(row) / TEMPERATURE, 0) - row[0] / TEMPERATURE for row in scores]
    return {"loss": losses, "accuracy": [float(all(row[0] > other for other in row[1:])) for row in scores]}


def slow_training(
    step: Callable[[dict], dict[str, list]],
    encoders: dict[str, list[nn.Module]],
    batches: list[dict[str, torch.Tensor]],
    state: Callable[[], dict[str, torch.Tensor]] = dict,
) -> Training:
    """Train by the definition: mean loss over the batch, and SGD with momentum and weight decay.

    Args:
        step: from a batch to each image's "loss", and what else is compared; it may change what it keeps.
        encoders: state name -> the encoder on each device; those with a gradient are trained.
        state: returns the state besides the encoders.
    """
    devices = len(next(iter(encoders.values())))
    trained = [p for encoder in encoders.values() for p in encoder[0].parameters() if p.requires_grad]
    velocity = [torch.zeros_like(parameter) for parameter in trained]
    training = Training()
    for batch in batches:
        measured = step(batch)
        gradients = torch.autograd.grad(sum(measured["loss"]) / BATCH, trained)
        with torch.no_grad():
            for parameter, gradient, speed in zip(trained, gradients, velocity, strict=True):
                speed.mul_(SGD_MOMENTUM).add_(gradient + DECAY * parameter)
                parameter.sub_(LR * speed)
        rows = BATCH // devices
        parts = [slice(device * rows, (device + 1) * rows) for device in range(devices)]
        training.outputs.append(
            {name: [float(sum(values[part])) / rows for part in parts] for name, values in measured.items()}
        )
        training.states.append(
            [
                {f"{name}.{key}": v.clone() for name in encoders for key, v in encoders[name][d].state_dict().items()}
                | {key: value.clone() for key, value in state().items()}
                for d in range(devices)
            ]
        )
    return training


def assert_same_training(found: Training, expected: Training, devices: Sequence[int]) -> None:
    """Compare the outputs and the whole state of each step of the package, in the process that represents ``devices``.

    Groups of a process share one set of running statistics, which follows the mean over its devices.
    """
    assert len(found.states) == len(expected.states)
    for step, state in enumerate(found.states):
        for name, values in expected.outputs[step].items():
            mean = sum(values[device] for device in devices) / len(devices)
            assert found.outputs[step][name] == pytest.approx(mean, abs=1e-5), f"{name} of step {step}"
        theirs = [expected.states[step][device] for device in devices]
        assert state.keys() == theirs[0].keys()
        for name, value in state.items():
            mean = torch.stack([each[name].double() for each in theirs]).mean(dim=0).to(value.dtype)
            torch.testing.assert_close(value, mean, atol=1e-5, rtol=0, msg=lambda m, at=(step, name): f"{at}: {m}")


def assert_same_in_processes(found: Sequence[Training], expected: Training) -> None:
    """Compare each process's training; together they represent the devices of ``expected``, in order."""
    devices = len(expected.states[0]) // len(found)
    for rank, training in enumerate(found):
        assert_same_training(training, expected, range(rank * devices, (rank + 1) * devices))
