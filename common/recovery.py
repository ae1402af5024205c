"""Loads the last checkpoint of a run, and suggests an older one if it is damaged or missing."""

import shlex
from pathlib import Path
from typing import Any

from .checkpoint import LAST, last_checkpoint, load_torch_file, name_of_last


def load_last(folder: str | Path, *, lazily: bool = False) -> tuple[Path, dict[str, Any]]:
    """Load the last checkpoint in ``folder`` with `load_torch_file`, and return its path and content.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, damaged or not that of a run; the message names an
            older one.
    """
    try:
        path = last_checkpoint(folder)
        content = load_torch_file(path, lazily=lazily)
        if not isinstance(content, dict):
            raise ValueError(f"{path} contains a {type(content).__name__}; expected the checkpoint of a run")
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{error}. {_way_on(Path(folder))}") from error
    return path, content


def _way_on(folder: Path) -> str:
    newest = newest_whole(folder)
    if newest is None:
        return f"No other checkpoint in {folder} is intact; start again with another OUTPUT_DIR"
    path, iteration = newest
    command = f"echo {shlex.quote(path.name)} > {shlex.quote(str(folder / LAST))}"
    return (
        f"The newest intact checkpoint is {path}, saved after {iteration + 1} iterations; to resume from it, run "
        f" {command}  and then this command again with --resume"
    )


def newest_whole(folder: Path) -> tuple[Path, int] | None:
    """Return the intact checkpoint of a run with the most iterations, and its iteration number.

    The last checkpoint is ignored.
    """
    last = name_of_last(folder)
    begun = {path: _iteration(path) for path in folder.glob("model_*.pth") if path.name != last}
    by_iteration = sorted((iteration, path) for path, iteration in begun.items() if iteration is not None)
    for iteration, path in reversed(by_iteration):
        try:
            load_torch_file(path)
            return path, iteration
        except (ValueError, OSError):
            continue
    return None


def _iteration(path: Path) -> int | None:
    """Return the last iteration before a checkpoint was written, or None if the file cannot be read."""
    try:
        content = load_torch_file(path, lazily=True)
    except (ValueError, OSError):
        return None
    iteration = content.get("iteration") if isinstance(content, dict) else None
    return iteration if isinstance(iteration, int) else None
