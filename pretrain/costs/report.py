"""Formats the counted and measured costs of a run as Markdown tables."""

import math
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from mocodet.common.progress import duration

from .count import RunCosts, sent
from .measure import Measured

UTILISATIONS = (1.0, 0.5, 0.4, 0.3, 0.2, 0.1)


def report(
    run: RunCosts,
    peaks: Mapping[str, float],
    hours: float | None,
    link: float,
    image_bytes: float,
    measured: Measured | None = None,
) -> str:
    """Return the cost tables as Markdown.

    Args:
        run: the result of `count_run`.
        peaks: peak FLOP/s of one GPU as specified by its manufacturer, by name.
        hours: length of the run. If None, it is measured or, without a measurement, estimated for 30 % of the first
            value in ``peaks``.
        link: bytes/s that each process can send.
        image_bytes: size of an image file in bytes.
        measured: the result of `measure_run`.
    """
    cfg, seen = run.config, run.iterations * run.rows * run.world
    if hours:
        took = hours
    elif measured:
        took = measured.seconds * run.iterations / 3600
    else:
        took = _least_hours(run, next(iter(peaks.values()))) / 0.3
    step_seconds = took * 3600 / run.iterations
    return "\n\n".join(
        [
            f"METHOD {cfg.METHOD}, {cfg.MODEL.ARCH}, crops of {cfg.AUGMENTATION.CROP_SIZE} pixels; {run.world}"
            f" processes with {run.rows} images each; {run.images:,} images, {run.iterations:,} iterations, {seen:,}"
            " images seen.",
            *(_measured(run, measured) if measured else ()),
            "**Arithmetic** (a multiplication and an addition are two operations)",
            _arithmetic(run),
            "**Time** in hours, by utilisation of the GPUs' peak",
            _time(run, peaks, hours),
            f"**Communication** per process and step (at {_hours(took)}, a step takes {1000 * step_seconds:.0f} ms)",
            _communication(run, link, step_seconds) if run.world > 1 else "A single process does not communicate.",
            "**Memory** per process",
            _table(["what", "bytes"], [(name, _size(count)) for name, count in _with_sum(run.memory)]),
            f"Each additional image per process takes {_size(run.image_memory)}.",
            f"**Input** at {_hours(took)}",
            _input(seen / took / 3600, run.world, image_bytes),
        ]
    )


def _measured(run: RunCosts, measured: Measured) -> list[str]:
    """Report the measured steps and the limits of the measurement."""
    step = f"{measured.seconds:.3g} s, including {measured.waiting:.3g} s of waiting for images"
    rows = [
        ("one step", step),
        ("images/s", f"{run.rows * run.world / measured.seconds:,.0f}"),
        (f"{run.iterations:,} steps", duration(measured.seconds * run.iterations)),
        *((name, _size(count)) for name, count in measured.memory.items()),
    ]
    told = f"Mean of {measured.steps} steps on {measured.data}, not including evaluations and checkpoints."
    if run.world > 1:
        told += (
            f" The steps ran in a single process with the {run.rows} images of each of {run.world} processes."
            " Communication between the processes, and their competition for the same machine, were not measured."
        )
    return [f"**On this machine** ({measured.device})", _table(["what", "measured"], rows), told]


def _hours(hours: float) -> str:
    """Format hours with one decimal place, or as minutes if this would round to 0."""
    text = f"{hours:.1f}"
    return f"{60 * hours:.2g} min" if text == "0.0" else f"{text} h"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _with_sum(counts: Mapping[str, float]) -> list[tuple[str, float]]:
    return [*counts.items(), ("sum", sum(counts.values()))]


def _least_hours(run: RunCosts, peak: float) -> float:
    """Return the duration of the run in hours if the GPUs reached their peak."""
    return sum(run.flops.values()) * run.iterations / peak / 3600


def _arithmetic(run: RunCosts) -> str:
    steps = run.world * run.iterations
    return _table(
        ["part", "GFLOP per image", "TFLOP per process and step", "10^18 FLOP for the run"],
        [
            (name, f"{count / run.rows / 1e9:.2f}", f"{count / 1e12:.3f}", f"{count * steps / 1e18:.2f}")
            for name, count in _with_sum(run.flops)
        ],
    )


def _time(run: RunCosts, peaks: Mapping[str, float], hours: float | None) -> str:
    headers = ["GPU peak", *(f"{share:.0%}" for share in UTILISATIONS)]
    headers += [f"utilisation for {hours:g} h"] if hours else []
    rows = []
    for name, peak in peaks.items():
        least = _least_hours(run, peak)
        times = [_hours(least / share).removesuffix(" h") for share in UTILISATIONS]
        row = [f"{name}, {peak / 1e12:g} TFLOP/s", *times]
        rows.append([*row, f"{least / hours:.1%}"] if hours else row)
    return _table(headers, rows)


def _communication(run: RunCosts, link: float, step_seconds: float) -> str:
    leaves = {names: sent(names[1], handed, run.world) for names, handed in run.handed.items()}
    total = sum(leaves.values())
    rows = [
        (": ".join(names), _size(run.handed[names]), _size(count), f"{1000 * count / link:.2f}")
        for names, count in leaves.items()
    ]
    rows.append(("sum", "", _size(total), f"{1000 * total / link:.2f}"))
    table = _table(["collective", "passed in", "leaves the process", f"ms at {link / 1e9:g} GB/s"], rows)
    return f"{table}\n\nWithout any overlap, communication takes {total / link / step_seconds:.1%} of the step."


def _input(rate: float, world: int, image_bytes: float) -> str:
    """Report the input bandwidth needed for ``rate`` images/s."""
    read, reading = rate * image_bytes, f"reading, at {image_bytes / 1000:g} kB per image"
    rows = [
        ("images/s", f"{rate:,.0f}", f"{rate / world:,.0f}"),
        (reading, f"{_size(read)}/s", f"{_size(read / world)}/s"),
    ]
    return _table(["", "all processes", "one process"], rows)


def _size(count: float) -> str:
    """Format a number of bytes with three significant digits and a decimal unit."""
    power = min(4, max(0, math.floor(math.log10(float(f"{count:.3g}")) / 3))) if count > 0 else 0
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
