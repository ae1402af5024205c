"""Shows progress and the remaining time of work that may take more than ten seconds."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TypeVar

from tqdm import tqdm

QUIET = 10.0  # seconds before progress is first shown
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
    """Yield ``items`` and show how many are done and how long the remaining ones will take.

    A terminal shows a bar, which disappears at the end. Any other stream receives a line every half minute. Nothing is
    shown for work that takes less than ten seconds.

    Args:
        items: the items to yield. An item is done when the next one is requested.
        what: the name of an item, for example ``"image"``.
        total: the number of items.
        stream: the stream to write progress to; stderr by default.
        clock: returns the time in seconds.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        columns, lines = shutil.get_terminal_size()  # tqdm shows nothing if the terminal does not report its size
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
    """Format a duration as ``40 s``, ``12 min`` or ``2:10 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"
