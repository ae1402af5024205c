"""Files that MATLAB wrote."""

from pathlib import Path
from typing import Any


def load_mat(path: Path) -> dict[str, Any]:
    """Read a MATLAB file, structures as numpy records.

    Raises:
        ImportError: SciPy, which reads them, is not installed.
        ValueError: the file is damaged.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            f"{path} is a MATLAB file, which SciPy reads: pip install scipy, and run this again"
        ) from error
    try:
        return loadmat(path, squeeze_me=True, struct_as_record=False)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make it raise almost anything
        raise ValueError(f"{path} is no MATLAB file ({error}); unpack its archive again with --again") from error
