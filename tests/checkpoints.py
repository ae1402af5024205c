"""Shared code of tests of saved runs."""

from pathlib import Path

import torch


def copy_checkpoint(source: Path, output: Path, name: str) -> None:
    """Leave in ``output`` what a run that was stopped right after it saved ``name`` leaves."""
    output.mkdir(parents=True, exist_ok=True)
    (output / name).write_bytes((source / name).read_bytes())
    (output / "last_checkpoint").write_text(name)


def half_written(folder: Path) -> list[str]:
    """Return the files that the runs in a folder were writing."""
    return sorted(path.name for path in folder.rglob(".*.tmp"))


def assert_equal_states(one: object, other: object, where: str = "") -> None:
    """Compare nested containers bit by bit: types, names and their order, numbers of all tensors."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal_states(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal_states(a, b, f"{where}/{number}")
    else:
        assert one == other, where
