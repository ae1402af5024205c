"""Slots for trials: a share of the CPU cores, or GPUs for exclusive use."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mocodet.common.cores import threads_for_each

GPUS_VARIABLE = "MOCODET_GPUS"  # GPUs to use, such as "0,1"; tests set this variable to simulate GPUs


class Slot(NamedTuple):
    """The resources for one trial at a time.

    Attributes:
        gpus: GPUs that only this trial uses; None if the machine has no GPUs.
        jobs: number of parallel trials, which share the CPU cores.
    """

    gpus: tuple[str, ...] | None
    jobs: int

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a trial in this slot, with its GPUs and, unless already set, its CPU threads."""
        own = dict(inherited)
        if self.jobs > 1:
            own.setdefault("OMP_NUM_THREADS", str(threads_for_each(self.jobs)))
        if self.gpus is not None:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return own

    def flags(self) -> list[str]:
        """Return the flags of the training command for the GPUs of this slot."""
        return ["--num-gpus", str(len(self.gpus))] if self.gpus and len(self.gpus) > 1 else []


def slots(gpus: Sequence[str], gpus_per_trial: int | None = None, jobs: int | None = None) -> list[Slot]:
    """Divide a machine into slots that do not share GPUs.

    Args:
        gpus: GPUs of the machine, from `visible_gpus`.
        gpus_per_trial: number of GPUs per trial. None means one if the machine has GPUs; 0 runs trials on the CPU.
        jobs: number of parallel trials. None means as many as the GPUs allow, or one on the CPU.

    Raises:
        ValueError: the machine has fewer GPUs than one trial or ``jobs`` trials require.
    """
    each = min(1, len(gpus)) if gpus_per_trial is None else gpus_per_trial
    if each == 0:
        return [Slot(() if gpus else None, jobs or 1)] * (jobs or 1)
    room = len(gpus) // each
    if room == 0:
        raise ValueError(
            f"--gpus-per-trial {each} exceeds the number of available GPUs, {len(gpus)}{_named(gpus)}; use 0 to train"
            " on the CPU"
        )
    if jobs is not None and jobs > room:
        raise ValueError(
            f"--jobs {jobs} is too high: {len(gpus)} GPUs{_named(gpus)} allow {room} parallel trials with {each} each,"
            " because trials do not share GPUs"
        )
    at_once = jobs or room
    return [Slot(tuple(gpus[n * each : (n + 1) * each]), at_once) for n in range(at_once)]


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that trials may use, in the notation of ``CUDA_VISIBLE_DEVICES``, without importing PyTorch.

    ``MOCODET_GPUS`` takes precedence over ``CUDA_VISIBLE_DEVICES``. If neither variable is set, the function returns
    all GPUs that ``nvidia-smi`` lists.
    """
    for variable in (GPUS_VARIABLE, "CUDA_VISIBLE_DEVICES"):
        if variable in environ:
            named = [name.strip() for name in environ[variable].split(",") if name.strip()]
            return named[: named.index("-1")] if "-1" in named else named  # like CUDA, ignore all later entries
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def _named(gpus: Sequence[str]) -> str:
    return f" ({', '.join(gpus)})" if gpus else ""
