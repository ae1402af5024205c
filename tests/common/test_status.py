import json
import logging
import os
from pathlib import Path

import pytest
from detectron2.engine import HookBase, TrainerBase

from mocodet.common.status import STATUS_FILE, StatusFile, note_end
from mocodet.common.stopping import Stopped


class Writer(HookBase):
    """Stores the measurements of a step, as the loops of both halves do, and reads the status after it."""

    def after_step(self) -> None:
        self.trainer.storage.put_scalars(total_loss=1.5, time=0.5)


class Run(TrainerBase):
    """Steps of half a minute that may raise, and note what the status says after each."""

    def __init__(self, folder: Path, end: BaseException | None = None) -> None:
        super().__init__()
        self.folder, self.end, self.seconds, self.said = folder, end, 0.0, []
        self.status = StatusFile(str(folder), 8, clock=lambda: self.seconds)
        self.register_hooks([Writer(), self.status])

    def run_step(self) -> None:
        self.said.append(read(self.folder))
        self.seconds += 30
        logging.getLogger("mocodet.somewhere").warning("step %d " + 1000 * "x", self.iter)
        if self.iter == 4 and self.end:
            raise self.end

    def run(self) -> None:
        with self.status.watched():
            self.train(0, 8)


def read(folder: Path) -> dict:
    return json.loads((folder / STATUS_FILE).read_text())


def test_status__once_a_minute_and_at_the_end(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    run = Run(tmp_path)
    run.run()
    assert [said["step"] for said in run.said] == [0, 0, 2, 2, 4, 4, 6, 6]
    first, fifth, last = run.said[0], run.said[4], read(tmp_path)
    assert {key: first[key] for key in ("state", "of", "loss", "seconds_left")} == {
        "state": "running",
        "of": 8,
        "loss": None,
        "seconds_left": None,
    }
    assert (fifth["loss"], fifth["images_per_second"], fifth["seconds_left"]) == (1.5, 8 / 0.5, 4 * 0.5)
    assert (fifth["last_checkpoint"], fifth["warnings"]) == ("model_0000001.pth", 4)
    assert (last["state"], last["reason"], last["step"], last["seconds_left"]) == ("finished", None, 8, None)
    assert [len(said) for said in last["latest_warnings"]] == [500] * 5
    assert last["latest_warnings"][-1].startswith("step 7 ")
    assert last["pid"] == os.getpid()
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("end", "state", "reason"),
    [
        (ValueError("two\nlines"), "failed", "two\nlines"),
        (RuntimeError(), "failed", "RuntimeError"),
        (Stopped(15), "stopped", "SIGTERM"),
        (SystemExit(1), "failed", "exit status 1"),
        (KeyboardInterrupt(), "stopped", "SIGINT"),
    ],
)
def test_status__how_a_run_ended(tmp_path, end, state, reason):
    with pytest.raises(type(end)):
        Run(tmp_path, end).run()
    said = read(tmp_path)
    assert (said["state"], said["reason"], said["step"]) == (state, reason, 4)


def test_status__that_cannot_be_written_ends_no_training(tmp_path, caplog):
    (tmp_path / STATUS_FILE).mkdir()
    run = Run(tmp_path)
    run.run_step = lambda: None
    run.run()
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 1


def test_note_end__of_this_process_s_run_where_nothing_was_said(tmp_path):
    note_end(str(tmp_path), "failed", "killed")
    assert list(tmp_path.iterdir()) == []
    run = Run(tmp_path)
    run.run_step = lambda: None
    run.train(0, 1)
    running = read(tmp_path)
    (tmp_path / STATUS_FILE).write_text(json.dumps({**running, "pid": os.getpid() + 1}))
    note_end(str(tmp_path), "failed", "killed")
    assert read(tmp_path)["state"] == "running", "of another run"
    (tmp_path / STATUS_FILE).write_text(json.dumps(running))
    note_end(str(tmp_path), "failed", "killed")
    assert (read(tmp_path)["state"], read(tmp_path)["reason"]) == ("failed", "killed")
    note_end(str(tmp_path), "stopped", "SIGTERM")
    assert read(tmp_path)["state"] == "failed"
