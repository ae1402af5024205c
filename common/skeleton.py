"""Networks built without initial values, to be filled from a file, or without memory, for names and shapes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

# The functions by which `torch.nn.init` and layers draw; they take the tensor as ``tensor``.
DRAWS = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}


class NoDraws(TorchFunctionMode):
    """A context in which networks are built without drawing initial values; parameters stay uninitialised."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, unless it draws."""
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def skeletons() -> Iterator[None]:
    """Build networks in this block on the meta device: with names and shapes, but without values.

    Drawing values there has no effect, but PyTorch would import its compiler for it: a second of CPU time.
    """
    with torch.device("meta"), NoDraws():
        yield
