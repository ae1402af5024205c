"""Places of trials: a share of the CPU's cores, or GPUs of their own."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mocodet.common.cores import threads_for_each

GPUS_VARIABLE = "MOCODET_GPUS"  # GPUs to use, such as "0,1"; tests simulate GPUs with it


class Slot(NamedTuple):
    """A place for one trial at a time.

    Attributes:
        gpus: the GPUs of the trial alone; None if the machine has none to divide.
        jobs: number of trials at a time, which share the cores.
    """

    gpus: tuple[str, ...] | None
    jobs: int

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a trial here: its GPUs, and its share of the cores unless the user has set one."""
        own = dict(inherited)
        if self.jobs > 1:
            own.setdefault("OMP_NUM_THREADS", str(threads_for_each(self.jobs)))
        if self.gpus is not None:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return own

    def flags(self) -> list[str]:
        """Return the flags of the training command for these GPUs."""
        return ["--num-gpus", str(len(self.gpus))] if self.gpus and len(self.gpus) > 1 else []


def slots(gpus: Sequence[str], gpus_per_trial: int | None = None, jobs: int | None = None) -> list[Slot]:
    """Divide a machine: no two slots share a GPU.

    Args:
        gpus: the machine's GPUs, from `visible_gpus`.
        gpus_per_trial: GPUs of each trial; None: one if there are any. With 0 trials run on the CPU.
        jobs: trials at a time; None: as many as the GPUs allow, one on the CPU.

    Raises:
        ValueError: fewer GPUs than a trial needs, or than ``jobs`` trials need.
    """
    each = min(1, len(gpus)) if gpus_per_trial is None else gpus_per_trial
    if each == 0:
        return [Slot(() if gpus else None, jobs or 1)] * (jobs or 1)
    room = len(gpus) // each
    if room == 0:
        raise ValueError(f"--gpus-per-trial {each}, but there are {len(gpus)} GPUs{_named(gpus)}; 0 trains on the CPU")
    if jobs is not None and jobs > room:
        raise ValueError(
            f"--jobs {jobs}, but {len(gpus)} GPUs{_named(gpus)} have room for {room} trials of {each};"
            " no two trials share a GPU"
        )
    at_once = jobs or room
    return [Slot(tuple(gpus[n * each : (n + 1) * each]), at_once) for n in range(at_once)]


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """List the GPUs that trials may use, as ``CUDA_VISIBLE_DEVICES`` names them, without PyTorch.

    They are those of ``MOCODET_GPUS``, else those of ``CUDA_VISIBLE_DEVICES``, else all that ``nvidia-smi`` lists.
    """
    for variable in (GPUS_VARIABLE, "CUDA_VISIBLE_DEVICES"):
        if variable in environ:
            named = [name.strip() for name in environ[variable].split(",") if name.strip()]
            return named[: named.index("-1")] if "-1" in named else named  # CUDA stops there, too
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def _named(gpus: Sequence[str]) -> str:
    return f" ({', '.join(gpus)})" if gpus else ""
