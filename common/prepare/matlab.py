"""Reading of MATLAB files."""

from pathlib import Path
from typing import Any


def load_mat(path: Path) -> dict[str, Any]:
    """Read a MATLAB file, with structures as numpy records.

    Raises:
        ValueError: the file is damaged.
    """
    from scipy.io import loadmat  # slow to import

    try:
        return loadmat(path, squeeze_me=True, struct_as_record=False)
    except MemoryError:
        raise
    except Exception as error:  # loadmat raises almost any exception for damaged data
        raise ValueError(f"{path} is not a MATLAB file ({error}); unpack its archive again with --again") from error
