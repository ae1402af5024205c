"""Networks that are built to be filled: without drawing initial values, and for names and shapes without memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

# What `torch.nn.init` and the layers' own initialisation draw with; it passes the tensor as ``tensor``.
DRAWS = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}


class NoDraws(TorchFunctionMode):
    """A context in which networks draw no initial values when they are built; such parameters stay uninitialised."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, unless it draws."""
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def skeletons() -> Iterator[None]:
    """Give the networks that are built in this block names and shapes alone, on the meta device.

    To draw values on that device, which does nothing, PyTorch would import its compiler: a second of CPU time.
    """
    with torch.device("meta"), NoDraws():
        yield
