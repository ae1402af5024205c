"""Checks that detectron2 is installed and recent enough."""

import importlib.util
import re

from .errors import MissingPackageError

MINIMUM_DETECTRON2 = (0, 6)

INSTALL_HELP = (
    "install it with  make setup  in a checkout of mocodet (a pinned wheel, no compiler needed) or, after torch, with "
    " pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)


def require_detectron2() -> None:
    """Raise `MissingPackageError`, with installation instructions, unless detectron2 >= 0.6 can be imported."""
    if importlib.util.find_spec("detectron2") is None:
        raise MissingPackageError(f"mocodet requires detectron2, which is not installed; {INSTALL_HELP}")

    import detectron2

    found = getattr(detectron2, "__version__", "unknown")
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if numbers < MINIMUM_DETECTRON2:
        wanted = ".".join(map(str, MINIMUM_DETECTRON2))
        raise MissingPackageError(f"mocodet requires detectron2 >= {wanted}, found {found}; {INSTALL_HELP}")
