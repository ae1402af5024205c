"""The file that ``MODEL.WEIGHTS`` refers to."""

from pathlib import Path


def weights_file(weights: str) -> Path | None:
    """Return the file that ``MODEL.WEIGHTS`` refers to, or None if it is empty or refers to a download."""
    path = Path(weights.removeprefix("moco://").partition("?")[0])  # moco:// may also refer to a file
    return path if weights and ("://" not in weights or path.is_file()) else None
