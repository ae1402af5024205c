"""The folder for files that mocodet can make or download again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$FVCORE_CACHE/mocodet`` or ``~/.torch/iopath_cache/mocodet``: beside what detectron2 downloads."""
    return Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser() / "mocodet"
