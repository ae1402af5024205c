"""How a run was made: its command and the versions of what it ran with."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .commands.table import PROGRAM
from .files import write_json

RECORD_FILE = "run.json"
PACKAGES = ("mocodet", "torch", "torchvision", "detectron2", "numpy")


def versions() -> dict[str, str | None]:
    """Return the versions of what a training depends on most; None for what is not installed as a distribution."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_record(folder: str | Path) -> None:
    """Write ``run.json`` into the folder of a run that the command line of this process has started."""
    write_json(Path(folder, RECORD_FILE), {"command": [PROGRAM, *sys.argv[1:]], "versions": versions()})
