"""The costs of a run as Markdown tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from .count import Collective, RunCosts, sent

UTILISATIONS = (1.0, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Assumptions:
    """What the tables cannot count.

    Attributes:
        peaks: FLOP/s of one GPU, by name, as its maker states them.
        hours: of the run; None: at 30 % of the first of ``peaks``.
        link: bytes/s that each process can send.
        image_bytes: of an image file.
        view_seconds: of a core, to decode an image and to make its views; None: not measured.
    """

    peaks: Mapping[str, float]
    hours: float | None
    link: float
    image_bytes: float
    view_seconds: float | None = None


def report(run: RunCosts, given: Assumptions) -> str:
    """Return the tables, as Markdown."""
    hours = given.hours or run.flops / (0.3 * run.world * next(iter(given.peaks.values()))) / 3600
    step_seconds = hours * 3600 / run.iterations
    parts = [
        _what(run),
        "**Arithmetic** (a multiplication and an addition are two operations)\n\n" + _arithmetic(run),
        "**Time**, in hours, by the share of the GPUs' peak that is reached\n\n" + _time(run, given.peaks, given.hours),
        f"**Communication** of a process in a step (at {hours:.1f} h a step takes {1000 * step_seconds:.0f} ms)\n\n"
        + _communication(run, given.link, step_seconds),
        "**Memory** of a process\n\n" + _memory(run),
        f"**Input** at {hours:.1f} h\n\n" + _input(run, given, step_seconds),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _what(run: RunCosts) -> str:
    cfg = run.config
    return (
        f"METHOD {cfg.METHOD}, {cfg.MODEL.ARCH}, crops of {cfg.AUGMENTATION.CROP_SIZE} pixels; {run.world} processes"
        f" with {run.rows} images each; {run.images:,} images, {run.iterations:,} iterations,"
        f" {run.iterations * run.rows * run.world:,} images seen."
    )


def _arithmetic(run: RunCosts) -> str:
    steps = run.world * run.iterations
    rows = [*run.step.flops.items(), ("sum", sum(run.step.flops.values()))]
    return _table(
        ["part", "GFLOP for an image", "TFLOP for a process and step", "10^18 FLOP for the run"],
        [
            (name, f"{count / run.rows / 1e9:.2f}", f"{count / 1e12:.3f}", f"{count * steps / 1e18:.2f}")
            for name, count in rows
        ],
    )


def _time(run: RunCosts, peaks: Mapping[str, float], hours: float | None) -> str:
    headers = ["peak of a GPU", *(f"{share:.0%}" for share in UTILISATIONS)]
    if hours:
        headers.append(f"share reached at {hours:g} h")
    rows = []
    for name, peak in peaks.items():
        least = run.flops / (run.world * peak) / 3600
        row = [f"{name}, {peak / 1e12:g} TFLOP/s", *(f"{least / share:.1f}" for share in UTILISATIONS)]
        rows.append([*row, f"{least / hours:.1%}"] if hours else row)
    return _table(headers, rows)


def _communication(run: RunCosts, link: float, step_seconds: float) -> str:
    if run.world == 1:
        return "One process: none."
    rows, total = [], 0.0
    for (phase, operation), handed in run.step.handed.items():
        if phase != "log":
            leaves = sent(operation, handed, run.world)
            total += leaves
            rows.append((f"{phase}: {operation}", _size(handed), _size(leaves), f"{1000 * leaves / link:.2f}"))
    rows.append(("sum", "", _size(total), f"{1000 * total / link:.2f}"))
    table = _table(["collective", "handed over", "leaves the process", f"ms at {link / 1e9:g} GB/s"], rows)
    log = run.step.handed[Collective("log", "all_reduce")]
    notes = [
        f"Not overlapped with anything, that is {total / link / step_seconds:.1%} of the step."
        f" In steps that are logged, {_size(log)} more."
    ]
    images = run.step.handed.get(Collective("forward", "all_to_all"))
    if images:
        notes.append(
            f"Shuffling by gathering all images everywhere would send {_size(sent('all_gather', images, run.world))}"
            f" from each process instead of {_size(sent('all_to_all', images, run.world))}."
        )
    return "\n\n".join([table, " ".join(notes)])


def _memory(run: RunCosts) -> str:
    rows = [*run.memory.items(), ("sum", sum(run.memory.values()))]
    table = _table(["what", "bytes"], [(name, _size(count)) for name, count in rows])
    return f"{table}\n\nOne image more in each process takes {_size(run.image_memory)}."


def _input(run: RunCosts, given: Assumptions, step_seconds: float) -> str:
    rate = run.rows * run.world / step_seconds
    rows = [
        ("images/s", f"{rate:,.0f}", f"{rate / run.world:,.0f}"),
        (
            f"reading, at {given.image_bytes / 1000:g} kB an image",
            f"{_size(rate * given.image_bytes)}/s",
            f"{_size(rate * given.image_bytes / run.world)}/s",
        ),
    ]
    if given.view_seconds:
        cores = rate * given.view_seconds
        what = f"cores that decode and augment, at {1000 * given.view_seconds:.1f} ms an image"
        rows.append((what, f"{cores:.1f}", f"{cores / run.world:.1f}"))
    return _table(["", "all", "a process"], rows)


def _size(count: float) -> str:
    """Write a number of bytes with three digits, in units of powers of 1000."""
    power = min(4, max(0, math.floor(math.log10(float(f"{count:.3g}")) / 3))) if count > 0 else 0
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
