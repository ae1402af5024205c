"""Records the command of a run and the versions of its packages."""

import sys
from pathlib import Path

from .commands.table import PROGRAM
from .files import write_json
from .versions import installed

RECORD_FILE = "run.json"
PACKAGES = ("mocodet", "torch", "torchvision", "detectron2", "numpy")


def versions() -> dict[str, str | None]:
    """Return the versions of the main packages used in training; None for a package that is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    match installed(package):
        case None:
            return None
        case name, found:
            return found if name == package else f"{name} {found}"


def write_record(folder: str | Path) -> None:
    """Write ``run.json`` to the folder of the run that was started with this process's command line."""
    write_json(Path(folder, RECORD_FILE), {"command": [PROGRAM, *sys.argv[1:]], "versions": versions()})
