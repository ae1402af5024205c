"""``python -m tests.rehearsal.fuzz OUTPUT``: tests every reader with faulty inputs.

For each reader, inputs are generated at random, written and read in a separate process. Each row of the table reports
how many inputs were read, how many were rejected, and how many had another result: another exception, a message with
multiple lines or without the name of the file, the end of the process, or a timeout. The latter inputs are saved in
OUTPUT with their tracebacks. The exit status is 1 if there are any.
"""

import argparse
import logging
import multiprocessing
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import torch

from .fuzzing import LIMIT, READERS, HangError, judge

MEMORY = 8 << 30  # bytes that a process may allocate, which protects the machine's memory


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, generate and judge the inputs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for misjudged inputs")
    parser.add_argument(
        "--inputs", type=int, default=10_000, metavar="N", help="number of inputs for each reader (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the random inputs (default: 0)")
    parser.add_argument(
        "--readers", nargs="+", default=list(READERS), choices=list(READERS), help="readers to test (default: all)"
    )
    parser.add_argument("--seconds", type=float, metavar="T", help="stop each reader's inputs after T seconds")
    args = parser.parse_args(argv)
    print(
        "| reader | inputs | read | refused | misjudged | hangs | ends | seconds |\n|---|---|---|---|---|---|---|---|"
    )
    bad = 0
    for name in args.readers:
        began = time.monotonic()
        counts = look_at(name, args.output / name, args.inputs, args.seed, args.seconds)
        kinds = ("read", "refused", "misjudged", "hang", "end")
        row = [counts.total(), *(counts[kind] for kind in kinds), round(time.monotonic() - began)]
        print(f"| {name} | {' | '.join(f'{number:,}' for number in row)} |", flush=True)
        bad += sum(counts[kind] for kind in kinds[2:])
    sys.exit(bool(bad))


def look_at(name: str, folder: Path, inputs: int, seed: int, seconds: float | None) -> Counter[str]:
    """Generate and judge inputs for a reader, and return the counts of the results."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    log.write_text("")
    until = time.time() + seconds if seconds else None
    counts: Counter[str] = Counter()
    while (done := counts.total()) < inputs and (until is None or time.time() < until):
        process = multiprocessing.get_context("fork").Process(
            target=_judge_all, args=(name, folder, range(done, inputs), seed, until)
        )
        process.start()
        while process.is_alive():
            process.join(LIMIT)
            if (
                process.is_alive() and time.time() - log.stat().st_mtime > 2 * LIMIT
            ):  # hangs in a call that handles no signals
                process.kill()
        counts = Counter(log.read_text().split())
        if counts.total() == done and not process.exitcode:
            break
        if process.exitcode:
            _keep(folder, counts.total(), f"the process ended with status {process.exitcode}")
            _note(log, "hang" if process.exitcode == -9 else "end")
            counts = Counter(log.read_text().split())
    shutil.rmtree(folder / "drawn", ignore_errors=True)
    return counts


def _judge_all(name: str, folder: Path, places: range, seed: int, until: float | None) -> None:
    """Log the result of each input as one word."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for place in places:
        if until is not None and time.time() > until:
            return
        try:
            word = judge(READERS[name], Random(f"{seed}/{place}"), folder / "drawn")
        except HangError:
            word = "hang"
            _keep(folder, place, traceback.format_exc())
        except Exception:
            word = "misjudged"
            _keep(folder, place, traceback.format_exc())
        _note(folder / "log.txt", word)


def _note(log: Path, word: str) -> None:
    with log.open("a") as handle:
        handle.write(f"{word}\n")


def _keep(folder: Path, place: int, why: str) -> None:
    kept = folder / f"misjudged_{place}"
    shutil.rmtree(kept, ignore_errors=True)
    with suppress(OSError):
        shutil.copytree(folder / "drawn", kept / "data")
    kept.mkdir(exist_ok=True)
    (kept / "why.txt").write_text(why, encoding="utf-8", errors="replace")


if __name__ == "__main__":
    main()
