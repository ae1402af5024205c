"""Avoids importing PyTorch's compiler, which takes almost as much CPU time as importing PyTorch itself.

torchvision and detectron2 each import ``torch._dynamo`` only to check one condition, which does not require the
compiler here. Training imports the compiler in any case, because PyTorch's optimizers do so when they are constructed.
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
    """Import torchvision, but defer the import of the compiler until torchvision first uses it.

    ``torchvision.ops.roi_align`` checks whether a function can be compiled for a device if a run must be deterministic
    on a GPU or if torchvision's own operators are missing. This function does nothing if torchvision or the compiler
    has already been imported.
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
    """Run detectron2's convolutions in this block without importing the compiler, unless it is already imported.

    Each convolution calls ``torch._dynamo.is_compiling``. Inside the block, it calls ``torch.compiler.is_compiling``
    instead, which returns the same value.
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
    """A placeholder for ``torch._dynamo.utils`` while torchvision is imported."""

    def leave(self) -> None:
        """Remove this placeholder, so that the next import loads the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def is_compile_supported(self, device_type: Any) -> Any:
        """Call the module's own function."""
        return import_module(self.__name__).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # requested by the import system, not by torchvision
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(self.__name__), name)
