"""``python -m tests.rehearsal.mutations OUTPUT``: tests whether check and training agree on faulty data sets.

For each kind (voc, coco, yolo, semseg), data sets are generated at random, written, checked and used in training up to
the first step. Each row of the table reports how many data sets were accepted, how many were rejected, and how many had
another result: another exception, a check that disagreed with training, or annotations that were neither read nor
reported. The latter data sets are saved in OUTPUT. The exit status is 1 if there are any.
"""

import argparse
import logging
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.detection.data.mutations import KINDS, write


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, generate and judge the data sets, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for misjudged data sets")
    parser.add_argument(
        "--number", type=int, default=2000, metavar="N", help="number of data sets of each kind (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the random data sets (default: 0)")
    parser.add_argument(
        "--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), help="kinds to test (default: all)"
    )
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    print("| kind | data sets | taken | refused | misjudged | seconds |\n|---|---|---|---|---|---|")
    misjudged = 0
    for kind in args.kinds:
        began = time.monotonic()
        counts = look_at(kind, args.output / kind, args.number, args.seed)
        row = [counts.total(), counts["taken"], counts["refused"], counts["misjudged"], round(time.monotonic() - began)]
        print(f"| {kind} | {' | '.join(f'{number:,}' for number in row)} |", flush=True)
        misjudged += counts["misjudged"]
    sys.exit(bool(misjudged))


def look_at(kind: str, folder: Path, number: int, seed: int) -> Counter[str]:
    """Generate and judge data sets of a kind, and return the counts of the results."""
    counts: Counter[str] = Counter()
    drawn = folder / "drawn"
    for place in range(number):
        write(drawn, KINDS[kind].files(Random(f"{seed}/{place}")))
        try:
            counts[KINDS[kind].judge(drawn).name] += 1
        except Exception:
            counts["misjudged"] += 1
            kept = folder / f"misjudged_{place}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(drawn, kept / "data")
            (kept / "why.txt").write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
    shutil.rmtree(drawn, ignore_errors=True)
    return counts


if __name__ == "__main__":
    main()
