"""A toy training command for studies in tests: it takes ``mocodet train``'s arguments and needs no PyTorch.

It "trains" for SOLVER.MAX_ITER iterations, writes a checkpoint after each and resumes from the last. In the folder of
the study it notes when it begins (``begin``) and when it is trained to its end (``end``), and holds a lock of its own
meanwhile, so that two at a time in one folder would show (``twice``). Keys of its own:

* ``AP``: its AP is that plus the seed; * ``SLEEP``: seconds of an iteration; * ``FAIL``: ``nan`` raises the error of a
diverged training half-way, ``file`` that of a missing file, a number is an exit status; ``nan@0`` with seed 0 alone.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path

from mocodet.common import tether


def note(folder: Path, word: str) -> None:
    """Append a line to the records of the study."""
    with Path(folder.parents[3], "records.txt").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        name = folder.relative_to(folder.parents[3]).as_posix()
        handle.write(f"{name} {word} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')} {time.monotonic()}\n")


def main() -> None:
    """Carry out the command line."""
    tether.install()
    words = sys.argv[1:]
    resume = "--resume" in words
    words = [word for word in words if word != "--resume"]
    if "--num-gpus" in words:
        del words[words.index("--num-gpus") :][:2]
    opts = dict(zip(words[::2], words[1::2], strict=True))
    folder, seed, iterations = Path(opts["OUTPUT_DIR"]), int(opts["SEED"]), int(opts.get("SOLVER.MAX_ITER", "3"))
    with (folder / "only_one").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(folder, "twice")
        config = {"SOLVER": {"MAX_ITER": iterations}, "SEED": seed, "OUTPUT_DIR": str(folder)}
        (folder / "config.yaml").write_text(json.dumps(config))
        checkpoint = folder / "last_checkpoint"
        done = int(checkpoint.read_text()) if resume else 0
        note(folder, f"begin:{done}")
        fail, _, only = opts.get("FAIL", "").partition("@")
        if only not in ("", str(seed)):
            fail = ""
        if fail == "file":
            raise FileNotFoundError(2, "No such file or directory", "images/0001.jpg")
        for iteration in range(done, iterations):
            if fail == "nan" and iteration >= iterations // 2:
                sys.exit("error: the loss is nan at iteration 1; lower SOLVER.BASE_LR")
            time.sleep(float(opts.get("SLEEP", "0")))
            with (folder / "metrics.json").open("a") as handle:
                handle.write(json.dumps({"iteration": iteration, "eta_seconds": 60.0, "total_loss": 1.0}) + "\n")
            checkpoint.with_suffix(".new").write_text(str(iteration + 1))
            checkpoint.with_suffix(".new").replace(checkpoint)
        if fail:
            sys.exit(int(fail))
        ap = float(opts.get("AP", "30")) + seed
        line = {"iteration": iterations, "bbox/AP50": ap + 2, "bbox/AP": ap, "bbox/AP75": ap - 2}
        with (folder / "metrics.json").open("a") as handle:
            handle.write(json.dumps(line) + "\n")
        note(folder, "end")


if __name__ == "__main__":
    main()
