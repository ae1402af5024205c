"""Finds the versions of mocodet and of the packages that it is based on, without importing them."""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version

from mocodet import __version__

BASIS = ("torch", "torchvision", "detectron2")


def versions() -> str:
    """Return one line each for mocodet, the packages that it is based on and Python, for bug reports."""
    lines = [f"mocodet {__version__}", *(f"{package} {_told(package)}" for package in BASIS)]
    return "\n".join([*lines, f"Python {platform.python_version()}, {platform.platform()}"])


def installed(package: str) -> tuple[str, str] | None:
    """Return the name and version of the distribution that contains an importable package, or None."""
    for name in (package, *_distributions().get(package, ())):  # detectron2 is distributed under several names
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def _told(package: str) -> str:
    """Return the version of a package's distribution, with the distribution's name if it differs."""
    match installed(package):
        case None:
            return "is not installed"
        case name, found:
            return found if name == package else f"{found} ({name})"


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
