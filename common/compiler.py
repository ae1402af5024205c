"""Keeping out PyTorch's compiler, whose import costs nearly as much CPU time as that of PyTorch itself.

torchvision and detectron2 import ``torch._dynamo`` to ask it one question each, whose answer needs no compiler here.
Training imports it anyhow: PyTorch's optimizers do, when they are made.
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
    """Import torchvision; leave the import of the compiler to the first use of what torchvision takes from it.

    ``torchvision.ops.roi_align`` asks whether a function can be compiled for a device: where a run must be
    deterministic on a GPU, or torchvision's own operators are missing. Nothing is different where torchvision or the
    compiler is imported already.
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
    """Let detectron2's convolutions run in this block without the compiler, if it is not imported yet.

    They ask ``torch._dynamo.is_compiling``, in each call. ``torch.compiler.is_compiling`` answers the same.
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
    """Stands for ``torch._dynamo.utils`` while torchvision is imported."""

    def leave(self) -> None:
        """Make way for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def is_compile_supported(self, device_type: Any) -> Any:
        """Answer as the module's own function."""
        return import_module(self.__name__).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system, not by torchvision
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(self.__name__), name)
