"""Saves checkpoints atomically, and loads them without executing code from the file."""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import nn

from .encoders.safe_pickle import HARMLESS
from .files import atomic_open
from .mistaken_file import mistaken_for, refuse_missing
from .retention import Retention
from .text import first_few, on_one_line

LAST = "last_checkpoint"  # fvcore's file that names the newest checkpoint in its folder
ADVICE = re.compile("weights_only|Re-running")  # words with which torch recommends to load without this safeguard


class AtomicSaveMixin:
    """Makes an fvcore ``Checkpointer`` write each file under a temporary name, flush it to disk, and then rename it.

    List this class before the checkpointer class in the bases. If a run is killed during ``save``, the previous
    checkpoint and the ``last_checkpoint`` file that names it stay unchanged.

    Attributes:
        retention: decides which older checkpoints are removed after each ``save``. If None, all of them are kept.
    """

    path_manager: Any
    save_dir: str
    save_to_disk: bool
    retention: Retention | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_manager = _AtomicWrites(self.path_manager)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``, then record its name in ``last_checkpoint``.

        Raises:
            OSError: the file cannot be written; the message names the checkpoint from which ``--resume`` continues.
        """
        try:
            super().save(name, **kwargs)  # type: ignore[misc]
        except OSError as error:
            raise OSError(f"{error}. {self._way_on()}") from error
        if self.retention and self.save_dir and self.save_to_disk:
            self.retention.apply(self.save_dir, last=f"{name}.pth")

    def _way_on(self) -> str:
        try:
            return f"--resume continues from {last_checkpoint(self.save_dir)}, which is intact"
        except FileNotFoundError:
            return "No earlier checkpoint exists"


class _AtomicWrites:
    """A path manager that writes files with `atomic_open`."""

    def __init__(self, path_manager: Any) -> None:
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> AbstractContextManager[IO]:
        """Open a file. A file opened for writing appears only once it is complete."""
        return (atomic_open if mode in ("w", "wb") else self._path_manager.open)(path, mode, **kwargs)


def last_checkpoint(folder: str | os.PathLike) -> Path:
    """Return the last checkpoint of the run in ``folder``, from which ``--resume`` continues.

    Raises:
        FileNotFoundError: the run has not saved a checkpoint, or the last one is missing.
    """
    if not holds_checkpoint(folder):
        raise FileNotFoundError(f"{folder} contains no checkpoint; specify the OUTPUT_DIR of a run that has saved one")
    path = Path(folder, name_of_last(folder))
    if not os.path.isfile(path):  # noqa: PTH113 (also accepts names that no file system allows)
        raise FileNotFoundError(
            f"{on_one_line(str(path))} does not exist, although the last_checkpoint file next to it names it; write the"
            " name of another checkpoint to that file"
        )
    return path


def name_of_last(folder: str | os.PathLike) -> str:
    """Return the name in ``last_checkpoint``, or an empty string if there is no such file.

    A damaged file may contain arbitrary bytes.
    """
    tag = Path(folder, LAST)
    return tag.read_text(encoding="utf-8", errors="replace").strip() if tag.is_file() else ""


def holds_checkpoint(folder: str | os.PathLike) -> bool:
    """Return whether a run in ``folder`` has saved a checkpoint and therefore a ``last_checkpoint`` file."""
    return Path(folder, LAST).is_file()


def refuse_other_run(folder: str | os.PathLike) -> None:
    """Raise an error if ``folder`` contains the checkpoints of another run, which training would overwrite.

    Raises:
        FileExistsError: the folder contains checkpoints; the message explains what to do.
    """
    if holds_checkpoint(folder):
        raise FileExistsError(
            f"{folder} already contains a run's checkpoints; continue it with --resume, or choose another OUTPUT_DIR"
        )


@contextmanager
def errors_about(what: str | os.PathLike) -> Iterator[None]:
    """Prefix the messages of ``FileNotFoundError`` and ``ValueError`` with ``what``."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def load_torch_file(path: str | os.PathLike, *, lazily: bool = False) -> Any:
    """Load a ``torch.save`` file (new or old format) or a safetensors file onto the CPU without executing its code.

    The format is detected from the content. Besides tensors and plain containers, the file may contain the data types
    that public checkpoints use (`mocodet.common.encoders.safe_pickle`).

    Args:
        path: the file to load.
        lazily: read tensors from disk only when they are used, and skip checksums, if the format allows it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or contains other pickled objects.
    """
    refuse_missing(path)
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        lazily = lazily and zipfile.is_zipfile(path)
        if not lazily:
            _check_sums(path)
        with torch.serialization.safe_globals(HARMLESS):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
        _uncover_methods(loaded)
        return loaded
    except Exception as error:  # torch.load raises almost any error for damaged bytes, even struct.error
        # Damaged bytes can also cause an OSError without a file name, for example a seek to an invalid offset.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise _unreadable(path, error) from error


def _uncover_methods(loaded: Any) -> None:
    """Delete attributes that shadow methods.

    When torch loads an OrderedDict, it sets every attribute that the file contains, even ``items``.
    """
    seen: set[int] = set()
    ahead = [loaded]
    while ahead:
        value = ahead.pop()
        if id(value) in seen or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        if isinstance(value, dict) and type(value) is not dict:  # a plain dict has no attributes
            for name in [name for name in vars(value) if hasattr(type(value), name)]:
                del vars(value)[name]
        ahead.extend(value.values() if isinstance(value, dict) else value)


def _is_safetensors(path: str | os.PathLike) -> bool:
    """Return whether a file starts like safetensors, with an eight-byte header length followed by a JSON object."""
    with Path(path).open("rb") as handle:
        start = handle.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def _check_sums(path: str | os.PathLike) -> None:
    """Verify the checksums of a file in torch's zip format, which torch writes but does not check.

    Raises:
        zipfile.BadZipFile: a checksum differs, or unpacking would make the file larger; nothing is unpacked then.
    """
    with Path(path).open("rb") as handle:
        if handle.read(4) != b"PK\x03\x04":
            return
        handle.seek(0)
        with zipfile.ZipFile(handle) as archive:
            members = archive.infolist()
            packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise zipfile.BadZipFile(f"it contains compressed members ({first_few(packed)}), unlike torch.save")
            if sum(member.file_size for member in members) > Path(path).stat().st_size:
                raise zipfile.BadZipFile("its members are larger than the file itself")
            damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"its member {damaged} does not match its checksum")


def check_fits(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Raise an error if ``tensors`` do not match those of ``model`` exactly, before any of them is loaded.

    Raises:
        ValueError: tensors are missing, unexpected, not finite, or of the wrong shape or type; the message names them.
    """
    if not isinstance(tensors, Mapping):
        raise ValueError(f"the model in the checkpoint is a {type(tensors).__name__}; expected a dict of tensors")
    faults = []
    for name, tensor in model.state_dict().items():
        found = tensors.get(name, tensor)
        if not isinstance(found, torch.Tensor):
            faults.append(f"{name} is a {type(found).__name__}, not a tensor")
        elif found.shape != tensor.shape:
            faults.append(f"{name} has shape {tuple(found.shape)}, expected {tuple(tensor.shape)}")
        elif (found.dtype, found.layout) != (tensor.dtype, tensor.layout):
            faults.append(f"{name} is {found.dtype} ({found.layout}), expected {tensor.dtype}")
        elif not found.isfinite().all():
            faults.append(f"{name} contains values that are not finite")
    mine = model.state_dict().keys()
    faults += [f"missing {name}" for name in mine if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in mine]
    if faults:
        raise ValueError(f"the checkpoint does not fit this config's model: {first_few(faults)}")


def _unreadable(path: str | os.PathLike, error: Exception) -> ValueError:
    if mistaken := mistaken_for(path):
        return ValueError(mistaken)
    # torch's message for an UnpicklingError recommends loading without weights_only, which would execute the file's
    # code. The cause is in the error that torch was handling.
    cause = error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error
    told = f"{type(cause).__name__}: {_without_advice(str(cause))}".strip(": ")
    return ValueError(
        f"{path} cannot be read as a checkpoint ({told}); expected a torch.save or safetensors file that"
        " contains only tensors, numbers, strings, lists and dicts"
    )


def _without_advice(message: str) -> str:
    """Return the first line of torch's message, up to its advice to allow a type or to load without weights_only."""
    line = next(iter(message.strip().splitlines()), "").partition(" was not an allowed global")[0]
    return " ".join(takewhile(lambda sentence: not ADVICE.search(sentence), re.split(r"(?<=[.:])\s+", line)))
