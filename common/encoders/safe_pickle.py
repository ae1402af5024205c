"""Stand-ins for the objects that a file may name in addition to tensors and plain containers; they only store data.

An unpickler calls what a file names and gives it a state, and the file chooses both. numpy's own types are not safe in
this case: a forged state turns a ``numpy.dtype`` of numbers into one of objects, whose values are memory addresses. The
unpickler therefore never receives numpy's types. A type is a `DType` until a number or an array is built from its
checked name.
"""

import argparse
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePosixPath
from pickle import UnpicklingError
from typing import Any

import numpy as np

NUMBER_CODE = re.compile(r"[?biufc][0-9]{0,2}", re.ASCII)  # booleans, integers, floats, complex numbers

NUMPY_CORES = ("numpy.core", "numpy._core")  # renamed in numpy 2


class DType:
    """Replaces ``numpy.dtype``: stores only a kind of number, its size and its byte order."""

    __slots__ = ("numbers",)

    def __init__(self, code: str, *flags: Any) -> None:
        if not isinstance(code, str) or not NUMBER_CODE.fullmatch(code):
            raise UnpicklingError(f"it contains the numpy type {code!r}; expected a numeric type")
        self.numbers = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in (subarray, names, fields)):
            raise UnpicklingError("it contains a structured numpy type; expected a numeric type")
        self.numbers = self.numbers.newbyteorder(order)


class Array(np.ndarray):
    """Replaces numpy's array: starts empty, and receives its type and shape together with the numbers in the file.

    An array is filled only once, because filling it again would free memory that a tensor or a view may share.
    """

    def __new__(cls, *claims: Any) -> "Array":
        """Return an empty array."""
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_fortran_order, content = state
        if type(kind) is not DType:
            raise UnpicklingError(f"it contains numbers of type {type(kind).__name__}; expected numpy.dtype")
        if isinstance(content, str):  # strings of Python 2, read as latin1
            content = content.encode("latin1")
        if not isinstance(content, bytes | bytearray):  # for example, a list of objects
            raise UnpicklingError(f"it contains numbers stored as {type(content).__name__}; expected bytes")
        if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
            raise UnpicklingError(f"it contains an array with the invalid shape {shape!r}")
        if self.size or math.prod(shape) * kind.numbers.itemsize != len(content):
            raise UnpicklingError(f"it contains an array of shape {shape} that does not match its {len(content)} bytes")
        checked: Any = (1, shape, kind.numbers, bool(in_fortran_order), bytes(content))
        super().__setstate__(checked)


def rebuild_from_buffer(content: Any, kind: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    """Replace ``numpy._core.numeric._frombuffer``; numpy 2.3 and later pass ``axis_order``, with order "K"."""
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array if axis_order is None else array.transpose(axis_order)


def rebuild_number(kind: Any, content: Any) -> Any:
    """Replace ``numpy._core.multiarray.scalar``: read a number as an array without axes."""
    return rebuild_from_buffer(content, kind, (), "C")[()]


class Ignored:
    """Replaces an object of a library that need not be installed: accepts the file's data and does nothing."""

    def __setstate__(self, state: Any) -> None:
        pass


class Namespace(argparse.Namespace):
    """Replaces ``argparse.Namespace``: accepts attributes, but nothing that would set a class."""

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state)


# Names that any file may use in addition to plain containers -> stand-ins for numpy's numbers and arrays of numbers.
NUMPY: dict[str, Callable] = {
    "numpy.dtype": DType,
    "numpy.ndarray": Array,
    **{f"{core}.multiarray._reconstruct": Array for core in NUMPY_CORES},
    **{f"{core}.multiarray.scalar": rebuild_number for core in NUMPY_CORES},
}

_LIGHTNING = [
    *(f"{package}.utilities.parsing" for package in ("pytorch_lightning", "lightning.pytorch")),
    *(f"{package}.utilities.data" for package in ("lightning_fabric", "lightning.fabric")),
]

# Additional names for `torch.load`, in the form of `torch.serialization.safe_globals`: the arguments of a training
# script with their paths, Lightning's hyperparameters, mmengine's history of losses.
HARMLESS: list[Any] = [
    *((stand_in, name) for name, stand_in in NUMPY.items()),
    (Namespace, "argparse.Namespace"),
    *((PurePosixPath, f"pathlib{new}.{name}") for new in ("", "._local") for name in ("PosixPath", "PurePosixPath")),
    *((OrderedDict, f"{module}.AttributeDict") for module in _LIGHTNING),
    (Ignored, "mmengine.logging.history_buffer.HistoryBuffer"),
]
