"""Saving and loading that survives an interrupted write and runs no code from a file."""

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
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

LAST = "last_checkpoint"  # the file beside checkpoints that names the newest, as fvcore writes it


class AtomicSaveMixin:
    """Makes an fvcore ``Checkpointer`` write each file under a temporary name, flush it, then rename it.

    Put it before the checkpointer class in the bases. If a run is killed during ``save``, the previous checkpoint and
    the ``last_checkpoint`` file that names it stay unchanged.

    Attributes:
        retention: decides which older checkpoints are removed after each ``save``; None: none are.
    """

    path_manager: Any
    save_dir: str
    save_to_disk: bool
    retention: Retention | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_manager = _AtomicWrites(self.path_manager)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and then its name into ``last_checkpoint``.

        Raises:
            OSError: the file cannot be written; the message says from which checkpoint ``--resume`` continues.
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
            return "No checkpoint had been written before"


class _AtomicWrites:
    """A path manager that writes files by `atomic_open`."""

    def __init__(self, path_manager: Any) -> None:
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> AbstractContextManager[IO]:
        """Open a file; one that is written appears whole or not at all."""
        return (atomic_open if mode in ("w", "wb") else self._path_manager.open)(path, mode, **kwargs)


def last_checkpoint(folder: str | os.PathLike) -> Path:
    """Return the last checkpoint of a run in ``folder``, as ``--resume`` finds it.

    Raises:
        FileNotFoundError: the run has saved none, or the last one is missing.
    """
    if not holds_checkpoint(folder):
        raise FileNotFoundError(f"{folder} holds no checkpoint; give the OUTPUT_DIR of a run that has saved one")
    path = Path(folder, name_of_last(folder))
    if not os.path.isfile(path):  # noqa: PTH113 (also of a name that no file system takes)
        raise FileNotFoundError(
            f"{on_one_line(str(path))} does not exist, but last_checkpoint beside it names it; name another checkpoint"
            " in that file"
        )
    return path


def name_of_last(folder: str | os.PathLike) -> str:
    """Return the name in ``last_checkpoint``; empty without the file. A damaged file may hold any bytes."""
    tag = Path(folder, LAST)
    return tag.read_text(encoding="utf-8", errors="replace").strip() if tag.is_file() else ""


def holds_checkpoint(folder: str | os.PathLike) -> bool:
    """Tell whether a run in ``folder`` has saved a checkpoint, by the file that names the last one."""
    return Path(folder, LAST).is_file()


def refuse_other_run(folder: str | os.PathLike) -> None:
    """Refuse to train in a folder with the checkpoints of another run, which would be overwritten.

    Raises:
        FileExistsError: the folder has such checkpoints; the message says what to do.
    """
    if holds_checkpoint(folder):
        raise FileExistsError(
            f"{folder} already holds a run's checkpoints; continue it with --resume, or give another OUTPUT_DIR"
        )


@contextmanager
def errors_about(what: str | os.PathLike) -> Iterator[None]:
    """Put ``what`` before the messages of ``FileNotFoundError`` and ``ValueError``."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def load_torch_file(path: str | os.PathLike, *, lazily: bool = False) -> Any:
    """Load a file of ``torch.save`` (new format or old) or of safetensors onto the CPU without running code from it.

    The content decides which of the two it is. Beside tensors and plain containers, the file may hold the data types
    that public checkpoints use (`mocodet.common.encoders.safe_pickle`).

    Args:
        path: of the file.
        lazily: read tensors from the disk when they are used, and skip checksums, where the format allows it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds other pickled objects.
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
    except Exception as error:  # damaged bytes make torch.load raise almost anything, IndexError and struct.error too
        # An OSError without a file name also comes from damaged bytes, such as a seek to an offset that they contain.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise _unreadable(path, error) from error


def _uncover_methods(loaded: Any) -> None:
    """Remove attributes that hide methods: torch gives an OrderedDict any that the file names, even ``items``."""
    seen: set[int] = set()
    ahead = [loaded]
    while ahead:
        value = ahead.pop()
        if id(value) in seen or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        if isinstance(value, dict) and type(value) is not dict:  # a plain one has no attributes
            for name in [name for name in vars(value) if hasattr(type(value), name)]:
                del vars(value)[name]
        ahead.extend(value.values() if isinstance(value, dict) else value)


def _is_safetensors(path: str | os.PathLike) -> bool:
    """Tell whether a file begins like safetensors: the length of a header in eight bytes, then its JSON object."""
    with Path(path).open("rb") as handle:
        start = handle.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def _check_sums(path: str | os.PathLike) -> None:
    """Compare the parts of a file in torch's zip format with their checksums, which torch writes but does not check.

    Raises:
        zipfile.BadZipFile: one differs, or unpacking would make the file larger; nothing is unpacked in that case.
    """
    with Path(path).open("rb") as handle:
        if handle.read(4) != b"PK\x03\x04":
            return
        handle.seek(0)
        with zipfile.ZipFile(handle) as archive:
            members = archive.infolist()
            packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise zipfile.BadZipFile(f"{first_few(packed)} in it is compressed; torch.save does not compress")
            if sum(member.file_size for member in members) > Path(path).stat().st_size:
                raise zipfile.BadZipFile("its members are larger than the whole file")
            damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in it does not match its checksum")


def check_fits(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Refuse tensors that do not match those of ``model`` exactly, before any is loaded.

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
            faults.append(f"{name} of shape {tuple(found.shape)}, not {tuple(tensor.shape)}")
        elif (found.dtype, found.layout) != (tensor.dtype, tensor.layout):
            faults.append(f"{name} of {found.dtype}, {found.layout}, not {tensor.dtype}")
        elif not found.isfinite().all():
            faults.append(f"{name} with numbers that are not finite")
    mine = model.state_dict().keys()
    faults += [f"missing {name}" for name in mine if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in mine]
    if faults:
        raise ValueError(f"the checkpoint does not fit this config's model: {first_few(faults)}")


def _unreadable(path: str | os.PathLike, error: Exception) -> ValueError:
    if mistaken := mistaken_for(path):
        return ValueError(mistaken)
    # torch's message for an UnpicklingError advises to load without weights_only, which would run the file's code. The
    # error that it handled then has the cause.
    cause = error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error
    lines = f"{type(cause).__name__}: {cause}".strip(": ").splitlines()
    told = lines[0].partition(" was not an allowed global")[0]  # advice to allow it follows
    return ValueError(
        f"{path} cannot be read as a checkpoint ({told}); expected a file of torch.save or safetensors that"
        " holds only tensors, numbers, strings, lists and dicts"
    )
