"""Progress with the time left, for work that may take more than ten seconds."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TypeVar

from tqdm import tqdm

QUIET = 10.0  # seconds after which the first progress is shown
BETWEEN_LINES = 30.0  # seconds

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    what: str,
    total: int,
    *,
    stream: IO[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """Yield ``items``, and show how many are done and how long the others will take.

    A terminal shows a bar, which vanishes at the end. Any other stream gets a line every half minute. Work of less than
    ten seconds shows nothing.

    Args:
        items: an item is done when the next one is requested.
        what: what an item is, for example ``"image"``.
        total: how many items there are.
        stream: where to write progress; stderr by default.
        clock: returns seconds.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        columns, lines = shutil.get_terminal_size()  # tqdm is silent if a terminal does not know its size
        yield from tqdm(items, what, total, False, stream, ncols=columns, nrows=lines, delay=QUIET)
        return
    began = clock()
    next_line = began + QUIET
    for done, item in enumerate(items):
        now = clock()
        if done and now >= next_line:
            left = duration((now - began) / done * (total - done))
            print(f"{what} {done} of {total}, about {left} left", file=stream, flush=True)
            next_line = now + BETWEEN_LINES
        yield item


def duration(seconds: float) -> str:
    """Format a duration for a reader: ``40 s``, ``12 min`` or ``2:10 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"
