"""Compares the final state of a run with faults to that of a run without faults."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mocodet.common.files import read_json, read_json_lines
from mocodet.common.retention import PERIODIC

WINDOW = 20  # number of iterations over which detectron2 computes medians
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds", "images_per_second"}
NO_MEDIANS = re.compile(r"lr|bbox/.*|knn_.*|.*_chance")
# Files in an OUTPUT_DIR that depend on the number of starts. Each start writes a file of events.
BY_CHANCE = re.compile(r"events\.out\.tfevents\..*|log\.txt\.rank1|skipped\.json\.lock")


def difference(one: Any, other: Any, where: str = "") -> str:
    """Return where two nested containers differ in bits, types, order or numbers, or an empty string if they do not."""
    if type(one) is not type(other):
        return f"{where}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))
        return "" if same else f"{where}: tensors"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{where}: other keys"
        items = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} entries"
        items = [(place, *pair) for place, pair in enumerate(zip(one, other, strict=True))]
    else:
        return "" if repr(one) == repr(other) else f"{where}: {one!r} and {other!r}"
    return next((found for key, a, b in items if (found := difference(a, b, f"{where}/{key}"))), "")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def other_metrics(
    reference: Iterable[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], starts: Sequence[tuple[int, int]]
) -> list[str]:
    """List the values in a reference's ``metrics.json`` that are missing or different in another run, except times.

    A resumed run computes medians only over its own iterations, so medians are compared only if they span `WINDOW`.

    Args:
        reference: the lines of the reference.
        found: the lines of the other run.
        starts: for each start of the other run, the number of lines at that time and its first iteration.
    """
    values: dict[tuple[int, str], tuple[Any, bool]] = {}
    for place, record in enumerate(found):
        began = max(start for start in starts if start[0] <= place)[1]
        whole = began == 0 or record["iteration"] - began + 1 >= WINDOW
        for name, value in record.items():
            values[record["iteration"], name] = value, whole or bool(NO_MEDIANS.fullmatch(name))
    wrong = []
    iterations = {iteration for iteration, _ in values}
    for record in reference:
        if record["iteration"] not in iterations:
            wrong.append(f"metrics.json has no line for iteration {record['iteration']}")
            continue
        for name in sorted(record.keys() - TIMES):
            value, comparable = values.get((record["iteration"], name), (None, True))
            if comparable and repr(value) != repr(record[name]):
                wrong.append(f"{name} of iteration {record['iteration']} is {value}, expected {record[name]}")
    return wrong


def names_in(output: Path) -> set[str]:
    """Return the files in an OUTPUT_DIR, except those that depend on how often the run was resumed."""
    files = (str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    return {name for name in files if not BY_CHANCE.fullmatch(name)}


def other_end(reference: Path, output: Path, starts: Sequence[tuple[int, int]]) -> list[str]:
    """List how the final state of a run with faults differs from that of the reference."""
    ends = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (reference, output)]
    found = [f"model_final.pth differs at {where}"] if (where := difference(*ends)) else []
    found += other_metrics(*(read_json_lines(folder / "metrics.json") for folder in (reference, output)), starts)
    names = [{name for name in names_in(folder) if not PERIODIC.fullmatch(name)} for folder in (reference, output)]
    found += [f"{name} was left behind" for name in sorted(names[1] - names[0])]
    found += [f"{name} is missing" for name in sorted(names[0] - names[1])]
    for name in sorted(names[0] & names[1]):
        if re.match(r"results\.json|inference/|neighbours/", name):
            same = (reference / name).read_bytes() == (output / name).read_bytes()
            found += [] if same else [f"{name} differs"]
    if skipped(reference) != skipped(output):
        found.append(f"skipped.json lists {skipped(output)}, expected {skipped(reference)}")
    if (state := read_json(output / "status.json")["state"]) != "finished":
        found.append(f"status.json contains the state {state!r}")
    return found


def skipped(output: Path) -> list[str]:
    """Return the images that a pre-training run could not read."""
    path = output / "skipped.json"
    return sorted(entry["file"] for entry in read_json(path)["skipped"]) if path.is_file() else []
