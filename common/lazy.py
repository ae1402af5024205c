"""Exports of a package that are imported on first access (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package that imports a module on the first access to its names.

    Args:
        package: ``__name__`` of the package, which must be imported or being imported.
        modules: exported name -> the module that has it, relative to the package, such as ``".run"``.
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
