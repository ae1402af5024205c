"""For ``--import tests.gate``: a training of either half waits before one of its steps until it may continue.

MOCODET_TEST_GATE names a folder and the step, as in ``/some/folder:2``. Each process writes its process id there to a
file named after its rank, and waits for a file named ``open``.
"""

import os
import time
from pathlib import Path

from detectron2.engine import TrainerBase
from detectron2.utils import comm

VARIABLE = "MOCODET_TEST_GATE"
PATIENCE = 300  # seconds; a test that fails may leave the processes waiting

_before_step = TrainerBase.before_step


def wait_at_gate(trainer: TrainerBase) -> None:
    folder, _, step = os.environ[VARIABLE].rpartition(":")
    if trainer.iter == int(step):
        note = Path(folder, str(comm.get_rank()))
        note.with_suffix(".new").write_text(str(os.getpid()))
        note.with_suffix(".new").replace(note)
        deadline = time.monotonic() + PATIENCE
        while not Path(folder, "open").exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody opened {folder}")
            time.sleep(0.02)
    _before_step(trainer)


if VARIABLE in os.environ:
    TrainerBase.before_step = wait_at_gate
