"""The versions of mocodet and of the packages that it builds on, found without importing them."""

import platform
from importlib.metadata import PackageNotFoundError, packages_distributions, version

from mocodet import __version__

BASIS = ("torch", "torchvision", "detectron2")


def versions() -> str:
    """Return one line each for mocodet, the packages that it builds on and Python, for bug reports."""
    lines = [f"mocodet {__version__}", *(f"{package} {_installed(package)}" for package in BASIS)]
    return "\n".join([*lines, f"Python {platform.python_version()}, {platform.platform()}"])


def _installed(package: str) -> str:
    """Return the version of a package's distribution, with the distribution's name if it differs."""
    try:
        return version(package)
    except PackageNotFoundError:
        holders = packages_distributions().get(package, [])
    return ", ".join(f"{version(name)} ({name})" for name in holders) or "is not installed"
