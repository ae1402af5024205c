"""Reads pickled numpy arrays, as detectron2's model zoo and Caffe2 publish them, without running code from the file."""

import io
import pickle
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from mocodet.common.encoders.safe_pickle import NUMPY, NUMPY_CORES, Array, DType, Ignored, rebuild_from_buffer
from mocodet.common.mistaken_file import mistaken_for


class Dict(Ignored, dict):
    """Replaces ``collections.OrderedDict``: it ignores attributes from the file, which could hide methods."""


# The names that a pickle of arrays may use, and their stand-ins. Old protocols write bytes as a call of ``encode``.
ARRAY_NAMES = NUMPY | {
    "collections.OrderedDict": Dict,
    "_codecs.encode": str.encode,
    **{f"{core}.numeric._frombuffer": rebuild_from_buffer for core in NUMPY_CORES},
}


PYTHONS: Any = pickle._Unpickler  # the standard library's type stubs lack it


def load_array_pickle(path: str | PathLike) -> dict[str, Any]:
    """Read a pickled dict of numpy arrays, as detectron2's model zoo and Caffe2 write them, without running its code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or needs anything but arrays, numbers, strings and plain containers.
    """
    content = Path(path).read_bytes()
    try:
        data = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()  # many model zoo files come from Python 2
    except Exception as error:  # damaged bytes make an unpickler raise almost anything, even MemoryError
        if mistaken := mistaken_for(path):
            raise ValueError(mistaken) from error
        told = f"{type(error).__name__}: {error}".strip(": ")
        raise ValueError(
            f"{path} cannot be read as pickled weights ({told}); expected a dict of numpy arrays"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}; expected a dict of numpy arrays")
    return data


class _ArrayUnpickler(PYTHONS):
    """Rebuilds numpy arrays and plain containers, and looks up nothing else.

    It is the unpickler in Python: the one in C allocates memory for the lengths that a file claims. The one in Python
    does so only for a bytearray, which becomes bytes here.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name that an array needs; refuse any other name before it can be called."""
        if f"{module}.{name}" not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return ARRAY_NAMES[f"{module}.{name}"]

    def load_build(self) -> None:
        """Set the state of an object that the file built; pickle would also set that of functions and classes."""
        if type(self.stack[-2]) not in (Array, DType, Dict):
            raise pickle.UnpicklingError("it asks to change a function or a class")
        super().load_build()

    dispatch: ClassVar = {
        **PYTHONS.dispatch,
        pickle.BYTEARRAY8[0]: PYTHONS.load_binbytes8,
        pickle.BUILD[0]: load_build,
    }
