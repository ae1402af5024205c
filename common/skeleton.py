"""Builds networks without initial values, to be loaded from a file, or without memory, to read names and shapes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

# The functions with which `torch.nn.init` and layers sample initial values. Each accepts the tensor as ``tensor``.
DRAWS = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}


class NoDraws(TorchFunctionMode):
    """A context in which networks are built without sampling initial values; their parameters stay uninitialised."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` unless it samples initial values."""
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def skeletons() -> Iterator[None]:
    """Build the networks in this block on the meta device, with names and shapes but without values.

    Initial values are not sampled, because on the meta device this has no effect but makes PyTorch import its compiler,
    which takes a second of CPU time.
    """
    with torch.device("meta"), NoDraws():
        yield
