"""Avoiding the import of PyTorch's compiler, which takes nearly as much CPU time as that of PyTorch itself.

torchvision and detectron2 import ``torch._dynamo`` for one question each, whose answer needs no compiler here. Training
imports it in any case: PyTorch's optimizers do, when they are constructed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
UTILS = f"{COMPILER}.utils"


def import_torchvision() -> None:
    """Import torchvision; delay the import of the compiler until torchvision first uses it.

    ``torchvision.ops.roi_align`` asks whether a function can be compiled for a device, if a run must be deterministic
    on a GPU or torchvision's own operators are missing. If torchvision or the compiler has been imported already, the
    function changes nothing.
    """
    if COMPILER in sys.modules or "torchvision" in sys.modules:
        return
    stand_in = _StandIn(UTILS)
    sys.modules[UTILS] = stand_in
    try:
        import_module("torchvision")
    finally:
        stand_in.leave()


@contextmanager
def eager_convolutions() -> Iterator[None]:
    """Run detectron2's convolutions in this block without the compiler, unless it has been imported already.

    They call ``torch._dynamo.is_compiling`` each time. ``torch.compiler.is_compiling`` answers the same.
    """
    import torch
    from detectron2.layers import wrappers

    name = "check_if_dynamo_compiling"
    if COMPILER in sys.modules or not hasattr(wrappers, name):
        yield
        return
    asked = getattr(wrappers, name)
    setattr(wrappers, name, torch.compiler.is_compiling)
    try:
        yield
    finally:
        setattr(wrappers, name, asked)


class _StandIn(ModuleType):
    """Replaces ``torch._dynamo.utils`` while torchvision is imported."""

    def leave(self) -> None:
        """Import the module itself in place of this object."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def is_compile_supported(self, device_type: Any) -> Any:
        """Answer as the module's own function does."""
        return import_module(self.__name__).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a question of the import system, not of torchvision
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(self.__name__), name)
