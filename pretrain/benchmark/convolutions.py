"""Lower bounds on the duration of a step: its convolutions only, and its arithmetic."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Convolution(NamedTuple):
    """A convolution of a network: shapes of its input (N x C x H x W) and weight, and settings such as stride."""

    x: torch.Size
    weight: torch.Size
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def convolutions_of(network: nn.Module, images: torch.Tensor) -> list[Convolution]:
    """List the convolutions that ``network`` runs on ``images`` (N x 3 x H x W), in order of execution."""
    found = []

    def note(layer: nn.Conv2d, given: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        how = layer.stride, layer.padding, layer.dilation, layer.groups
        found.append(Convolution(given[0].shape, layer.weight.shape, *how))  # type: ignore[arg-type]

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


class ConvolutionsAlone:
    """The convolutions of a MoCo step: forward passes of both encoders and the backward pass of one, in channels_last.

    Args:
        convolutions: convolutions of an encoder. The input of the first one is the images, which need no gradient.
        device, dtype: device and precision of the convolutions.
    """

    def __init__(self, convolutions: Sequence[Convolution], device: torch.device, dtype: torch.dtype) -> None:
        def noise(shape: Sequence[int]) -> torch.Tensor:
            return torch.randn(*shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)

        self.convolutions = convolutions
        # One tensor for each shape is enough: the values do not affect the time, but the memory might.
        self.noise = {shape: noise(shape) for one in convolutions for shape in (one.x, one.weight)}
        with torch.no_grad():
            self.gradients = {one: torch.randn_like(self.forward(one)) for one in dict.fromkeys(convolutions)}

    def forward(self, one: Convolution) -> torch.Tensor:
        """Run one convolution and return its output."""
        x, weight = self.noise[one.x], self.noise[one.weight]
        return torch.conv2d(x, weight, None, one.stride, one.padding, one.dilation, one.groups)

    def backward(self, one: Convolution, of_input: bool) -> None:
        """Compute the gradient of one convolution with respect to its weight and, if ``of_input``, its input."""
        tensors = self.gradients[one], self.noise[one.x], self.noise[one.weight]
        how = one.stride, one.padding, one.dilation, False, [0, 0], one.groups
        torch.ops.aten.convolution_backward(*tensors, None, *how, [of_input, True, False])

    @torch.no_grad()
    def __call__(self) -> None:
        """Run all convolutions of a step once."""
        for _ in ("query", "key"):
            for one in self.convolutions:
                self.forward(one)
        for number, one in enumerate(self.convolutions):
            self.backward(one, of_input=number > 0)


def count_flops(run: Callable[[], object]) -> float:
    """Count the operations in convolutions and matrix products of ``run``. A multiply-add counts as two operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
