"""What a file may name beside tensors and plain containers: stand-ins that take data and can do nothing with it.

An unpickler calls what a file names and gives it a state, and the file chooses both. numpy's own types are not made for
that: a forged state turns a ``numpy.dtype`` of numbers into one of objects, whose values are addresses in memory. So no
type of numpy's is handed out. A type is a `DType` until the number or the array is built, from a name that was checked.
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

NUMBER_CODE = re.compile(r"[?biufc][0-9]{0,2}", re.ASCII)  # truth values, integers, floats, complex numbers

NUMPY_CORES = ("numpy.core", "numpy._core")  # renamed in numpy 2


class DType:
    """Stands for ``numpy.dtype``: a kind of numbers, its size and the order of its bytes; nothing else is taken."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, *flags: Any) -> None:
        if not isinstance(code, str) or not NUMBER_CODE.fullmatch(code):
            raise UnpicklingError(f"it holds numpy's type {code!r}; expected numbers")
        self._code = code
        self._order = "="

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in (subarray, names, fields)):
            raise UnpicklingError("it holds a type of numpy's with parts; expected numbers")
        self._order = order

    def build(self) -> np.dtype:
        """Return numpy's type."""
        return np.dtype(self._order + self._code)


class Array(np.ndarray):
    """Stands for numpy's array: begins empty, whatever a file asks for; the file's numbers give it type and shape.

    That happens once: to fill it anew would free memory that a tensor or a view may share.
    """

    def __new__(cls, *claims: Any) -> "Array":
        """Return an empty array."""
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_fortran_order, content = state
        kind, content = _built(kind), _bytes_of(content)
        if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
            raise UnpicklingError(f"an array in it has the shape {shape!r}")
        if self.size or math.prod(shape) * kind.itemsize != len(content):
            raise UnpicklingError(f"an array of shape {shape} in it has {len(content)} bytes")
        super().__setstate__((1, shape, kind, bool(in_fortran_order), content))


def rebuild_number(kind: Any, content: Any) -> np.generic:
    """Stand for ``numpy._core.multiarray.scalar``."""
    kind, content = _built(kind), _bytes_of(content)
    if len(content) != kind.itemsize:
        raise UnpicklingError(f"a number of type {kind} in it has {len(content)} bytes")
    return np.frombuffer(content, kind)[0]


def rebuild_from_buffer(content: Any, kind: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    """Stand for ``numpy._core.numeric._frombuffer``; ``axis_order`` comes from numpy 2.3 and later, with order "K"."""
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array if axis_order is None else array.transpose(axis_order)


class Ignored:
    """Stands for an object of a library that need not be installed: takes what a file says of it, and does nothing."""

    def __setstate__(self, state: Any) -> None:
        pass


class Namespace(argparse.Namespace):
    """Stands for ``argparse.Namespace``: takes attributes by name, and nothing that would set a class."""

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise UnpicklingError("it holds an argparse.Namespace without names")
        vars(self).update(state)


class Dict(dict):
    """Stands for ``collections.OrderedDict``: leaves the attributes that a file may give it, for they hide methods."""

    def __setstate__(self, state: Any) -> None:
        pass


def _path(*parts: Any) -> PurePosixPath:
    # A function: what is no class cannot be built, and its result cannot be given a state.
    return PurePosixPath(*parts)


def _encode(text: str, encoding: str) -> bytes:
    """Stand for ``_codecs.encode``, with which Python 3 pickles bytes for old protocols, always as latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


class _Sealed:
    """A callable that a file may call and not change: pickle gives a state to functions and classes too."""

    __slots__ = ("_callable",)

    def __init__(self, target: Callable) -> None:
        self._callable = target

    def __call__(self, *arguments: Any) -> Any:
        return self._callable(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise UnpicklingError("it asks to change what it calls")


def _built(kind: Any) -> np.dtype:
    if type(kind) is not DType:
        raise UnpicklingError(f"it holds numbers of type {type(kind).__name__}; expected numpy.dtype")
    return kind.build()


def _bytes_of(content: Any) -> bytes:
    """Return the bytes of numbers; Python 2's strings were read as latin1. A list, as of objects, has none."""
    if isinstance(content, str):
        return content.encode("latin1")
    if not isinstance(content, bytes | bytearray):
        raise UnpicklingError(f"numbers in it are a {type(content).__name__}; expected bytes")
    return bytes(content)


def _for_torch() -> list[tuple[Callable, str]]:
    lightning = ("pytorch_lightning.utilities.parsing", "lightning.pytorch.utilities.parsing")
    fabric = ("lightning_fabric.utilities.data", "lightning.fabric.utilities.data")
    pathlibs = ("pathlib", "pathlib._local")  # renamed in Python 3.13
    return [
        (Namespace, "argparse.Namespace"),
        *((_path, f"{module}.{name}") for module in pathlibs for name in ("PosixPath", "PurePosixPath")),
        (Array, "numpy.ndarray"),
        (DType, "numpy.dtype"),
        *((Array, f"{core}.multiarray._reconstruct") for core in NUMPY_CORES),
        *((rebuild_number, f"{core}.multiarray.scalar") for core in NUMPY_CORES),
        *((OrderedDict, f"{module}.AttributeDict") for module in lightning + fabric),
        (Ignored, "mmengine.logging.history_buffer.HistoryBuffer"),
    ]


def _for_pickle() -> dict[tuple[str, str], Callable]:
    named = {
        ("collections", "OrderedDict"): Dict,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): DType,
        ("numpy", "ndarray"): Array,
    }
    for core in NUMPY_CORES:
        named[f"{core}.multiarray", "_reconstruct"] = Array
        named[f"{core}.multiarray", "scalar"] = rebuild_number
        named[f"{core}.numeric", "_frombuffer"] = rebuild_from_buffer
    return {name: _Sealed(target) for name, target in named.items()}


# What `torch.load` may meet beside tensors and plain containers, as `torch.serialization.safe_globals` takes it: the
# arguments of a training script, paths among them; numpy's numbers, and arrays of numbers; Lightning's hyperparameters;
# mmengine's record of losses.
HARMLESS = _for_torch()

# What a pickle of arrays may name, (module, name) -> what is called instead.
ARRAY_NAMES = _for_pickle()
