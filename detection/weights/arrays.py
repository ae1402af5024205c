"""Reads pickled NumPy arrays from detectron2's model zoo and Caffe2 without running code from the file."""

import io
import pickle
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from mocodet.common.encoders.safe_pickle import NUMPY, NUMPY_CORES, Array, DType, Ignored, rebuild_from_buffer
from mocodet.common.mistaken_file import mistaken_for


class Dict(Ignored, dict):
    """Replaces ``collections.OrderedDict`` and ignores attributes from the file, which could hide methods."""


# The names that a pickle of arrays may use, and their replacements. Old protocols write bytes as a call to ``encode``.
ARRAY_NAMES = NUMPY | {
    "collections.OrderedDict": Dict,
    "_codecs.encode": str.encode,
    **{f"{core}.numeric._frombuffer": rebuild_from_buffer for core in NUMPY_CORES},
}


PYTHONS: Any = pickle._Unpickler  # missing in the standard library's type stubs


def load_array_pickle(path: str | PathLike) -> dict[str, Any]:
    """Read a pickled dict of NumPy arrays, as in detectron2's model zoo and Caffe2, without running its code.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or requires more than arrays, numbers, strings and plain containers.
    """
    content = Path(path).read_bytes()
    try:
        data = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()  # for files from Python 2
    except Exception as error:  # damaged data can raise almost any exception, even MemoryError
        if mistaken := mistaken_for(path):
            raise ValueError(mistaken) from error
        told = f"{type(error).__name__}: {error}".strip(": ")
        raise ValueError(
            f"{path} cannot be read as pickled weights ({told}); expected a dict of numpy arrays"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} contains a {type(data).__name__}; expected a dict of numpy arrays")
    return data


class _ArrayUnpickler(PYTHONS):
    """Rebuilds NumPy arrays and plain containers, and resolves no other names.

    This is Python's pure-Python unpickler, because the C implementation allocates memory for the lengths that a file
    claims. The Python implementation does so only for a bytearray, which is read as bytes here.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement for a name that arrays require, and reject any other name before it can be called."""
        if f"{module}.{name}" not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"it uses {module}.{name}, which arrays do not require")
        return ARRAY_NAMES[f"{module}.{name}"]

    def load_build(self) -> None:
        """Set the state of an object built by the file; pickle would also set that of functions and classes."""
        if type(self.stack[-2]) not in (Array, DType, Dict):
            raise pickle.UnpicklingError("it modifies a function or a class")
        super().load_build()

    dispatch: ClassVar = {
        **PYTHONS.dispatch,
        pickle.BYTEARRAY8[0]: PYTHONS.load_binbytes8,
        pickle.BUILD[0]: load_build,
    }
