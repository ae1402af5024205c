"""The cache folder for files that mocodet can create or download again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$FVCORE_CACHE/mocodet`` or ``~/.torch/iopath_cache/mocodet``, next to detectron2's downloads."""
    return Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser() / "mocodet"
