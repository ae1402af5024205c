"""Package exports that are imported on first access (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Create the ``__getattr__`` and ``__dir__`` of a package that imports a module on first access to its names.

    Args:
        package: the ``__name__`` of the package, which must have been imported or be in the process of being imported.
        modules: maps each exported name to its module, relative to the package, such as ``".run"``.
    """
    namespace = vars(sys.modules[package])

    def export(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        namespace[name] = getattr(import_module(modules[name], package), name)
        return namespace[name]

    def names() -> list[str]:
        return sorted({*namespace, *modules})

    return export, names
