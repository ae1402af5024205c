"""Imports the modules of users that add methods, data sets or evaluation kinds."""

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path


def import_modules(names: Iterable[str]) -> None:
    """Import the modules given with ``--import``, which may be in the current folder.

    Raises:
        ValueError: a module, or a module that it imports, does not exist.
    """
    for name in names:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"--import {name}: {error}; expected a module in this folder or on PYTHONPATH") from error
