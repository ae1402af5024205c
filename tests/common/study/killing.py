"""Kill a study of toy trials at random moments, run it to its end, and check the outcome of each trial."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mocodet.common.study.aggregate import aggregate

STUDY = Path(__file__).with_name("toy_study.py")
DESCRIPTION = """
NAME: killed
DETECTORS:
  A: {CONFIG: toy_R_18_FPN.yaml}
INITS:
  moco: {OPTS: {AP: 40, MODEL.WEIGHTS: ''}}
  random:
  nan: {VARIANT: random, OPTS: {FAIL: nan@0}}
  file: {VARIANT: random, OPTS: {FAIL: file@0}}
REFERENCE: random
"""
REASONS = {
    "nan": "exit status 1: the loss is nan at iteration 1; lower SOLVER.BASE_LR",
    "file": "exit status 1: FileNotFoundError: [Errno 2] No such file or directory: 'images/0001.jpg'",
}


def start(folder: Path, seeds: int, jobs: int, sleep: float) -> subprocess.Popen:
    """Start the study in a process group of its own; it prints to ``printed.txt`` in ``folder``."""
    (folder / "killed.yaml").write_text(DESCRIPTION)
    words = ["killed.yaml", "--output", "study", "--jobs", jobs, "--seeds", seeds, "SLEEP", sleep]
    with (folder / "printed.txt").open("w") as printed:
        command = [sys.executable, str(STUDY), *map(str, words)]
        return subprocess.Popen(command, cwd=folder, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)


def kill(study: subprocess.Popen, whole_group: bool) -> None:
    """End the study at once, alone or with all of its process group."""
    (os.killpg if whole_group else os.kill)(study.pid, signal.SIGKILL)
    study.wait()


def records(folder: Path) -> list[list[str]]:
    """Return what the toy trainings noted: (trial, word, GPUs, time) of each."""
    return [line.split() for line in (folder / "study" / "records.txt").read_text().splitlines()]


def harass(folder: Path, seeds: int, jobs: int, sleep: float, moments: Sequence[float], stream: random.Random) -> dict:
    """Start the study, kill it after each of ``moments`` seconds, then let it run to its end.

    Returns:
        its ``results.json``.

    Raises:
        AssertionError: two processes trained a trial at the same time; a trial was not trained to its end once; a
            failed one lacks its reason; or the command did not end as expected.
    """
    for moment in moments:
        study = start(folder, seeds, jobs, sleep)
        time.sleep(moment)
        kill(study, whole_group=stream.random() < 0.5)
    study = start(folder, seeds, jobs, sleep)
    status, printed = study.wait(), (folder / "printed.txt").read_text()
    assert status == 1, printed
    assert f"2 of {4 * seeds} trials failed; run the same command again to retry them" in printed
    words = Counter((name, word.partition(":")[0]) for name, word, _, _ in records(folder))
    results = json.loads((folder / "study" / "results.json").read_text())
    assert len(results["trials"]) == 4 * seeds
    for trial in results["trials"]:
        name = trial["folder"]
        assert words[name, "twice"] == 0, f"{name} was trained by two processes at a time"
        reason = REASONS.get(trial["init"]) if trial["seed"] == 0 else None
        if reason:
            assert (trial["status"], trial["reason"], trial["metrics"]) == ("failed", reason, {})
            assert f"{trial['init']}, seed {trial['seed']} failed: {reason} (output: study/{name}/study.log)" in printed
            assert words[name, "end"] == 0
        else:
            ap = (40.0 if trial["init"] == "moco" else 30.0) + trial["seed"]
            assert (trial["status"], trial["metrics"]["bbox/AP"]) == ("finished", ap)
            assert words[name, "end"] == 1, f"{name} was trained to its end {words[name, 'end']} times"
    assert sum(row.n_trials for row in aggregate(results)) == 4 * seeds - len(REASONS)
    assert (folder / "study" / "report.txt").read_text() in printed
    return results
