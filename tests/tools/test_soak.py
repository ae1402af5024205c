"""The soak script: what it draws, what it compares, and whole rounds of a toy training that may be faulty."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mocodet.common.study.process import Tether

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import soak
from soaking import ends, faults, processes, trainings

ABSENT = "error: rank {} of 2 did not join a collective operation within COLLECTIVE_TIMEOUT; the process was stopped"
TOY = trainings.Training("toy", (), period=2, iterations=6, loaders=False)

# Writes checkpoints, metrics and a status as a training does. Among faults it does not come to its end before it has
# been killed once.
TRAINING = """
import json, pathlib, sys, time
output = pathlib.Path(sys.argv[1])
tag, metrics = output / "last_checkpoint", output / "metrics.json"
last = json.loads((output / tag.read_text()).read_text()) if tag.is_file() else {"iteration": -1, "sum": 0}
began = last["iteration"] + 1
for iteration in range(began, 6):
    while began == 0 and iteration == 3 and "rounds" in output.parts:
        time.sleep(0.01)
    last = {"iteration": iteration, "sum": last["sum"] + iteration}
    with metrics.open("a") as lines:
        print(json.dumps({"iteration": iteration, "lr": 0.1}), file=lines)
    for name in [f"model_{iteration:07d}.pth"] * (iteration % 2) + ["model_final.pth"] * (iteration == 5):
        time.sleep(0.1)
        (output / name).write_text(json.dumps(last))
        tag.write_text(name)
for old in sorted(output.glob("model_0*.pth"))[:-2]:
    old.unlink()
(output / "status.json").write_text('{"state": "finished"}')
"""
# What a faulty one has in place of a part of it, and what is found then.
BUGS = {
    "began = last": ("began = bool(tag.is_file()) + last", "model_final.pth differs at /sum: 15 and 13"),
    "for old in": ("if began: (output / '.some.tmp').touch()\nfor old in", ".some.tmp was left behind"),
    "for iteration in": ("if began: sys.exit('error: bad luck')\nfor iteration in", "status 1 without a fault"),
}


def test_schedule__is_drawn_from_the_seed_and_has_all_faults_that_a_training_can_meet():
    for training in trainings.TRAININGS:
        drawn = [faults.schedule(0, number, training) for number in range(100)]
        assert drawn == [faults.schedule(0, number, training) for number in range(100)]
        assert drawn != [faults.schedule(1, number, training) for number in range(100)]
        drawn_faults = {strike.fault for strikes in drawn for strike in strikes}
        several = {faults.KILL_RANK, faults.STOP_RANK}
        assert drawn_faults == {
            *set(faults.FAULTS) - several - {faults.KILL_LOADER},
            *(several if training.processes > 1 else ()),
            *([faults.KILL_LOADER] if training.loaders else ()),
        }
    assert {strike.fault for number in range(9) for strike in faults.schedule(0, number, TOY, ["SIGINT"])} == {"SIGINT"}


def test_difference__finds_a_single_bit_a_type_and_an_order():
    def state(**changes):
        return {"model": {"w": torch.tensor([0.0, float("nan"), 1.0]), "n": torch.tensor(3)}, "at": [1, 2.0], **changes}

    assert ends.difference(state(), state()) == ""
    other = state()
    other["model"]["w"].view(torch.uint8)[3] = 0x80  # the sign of a zero
    assert ends.difference(state(), other) == "/model/w: tensors"
    assert ends.difference(state(), state(at=[1, 2])) == "/at/1: float and int"
    assert ends.difference(state(), state(at=[1])) == "/at: 2 and 1 entries"
    assert ends.difference(state(), dict(reversed(state().items()))) == ": other keys"


def test_other_metrics__finds_what_is_lost_or_otherwise_but_not_times_and_broken_medians():
    reference = [{"iteration": i, "loss": 1.0 + i, "lr": 0.1, "time": 1.0} for i in range(9, 60, 10)]

    def found(start, **changes):
        went_on = [{**record, "time": 2.0, **changes} for record in reference if record["iteration"] >= start]
        return ends.other_metrics(reference, [*reference[:3], *went_on], [(0, 0), (3, start)])

    assert found(25) == []
    assert found(35) == []  # the line of 29 was written before the stop
    assert found(45) == ["metrics.json has no line for iteration 39"]
    assert found(25, lr=0.2)[0] == "lr of iteration 29 is 0.2, expected 0.1"
    # Medians over twenty iterations: whole again from 25 + 19 on.
    assert [line.split()[3] for line in found(25, loss=0.0)] == ["49", "59"]


@pytest.mark.parametrize(
    ("fault", "wrote", "status", "printed", "good"),
    [
        ("SIGTERM", True, 143, "stopped by SIGTERM; --resume continues from model_0000003.pth", True),
        ("SIGTERM", True, 130, "stopped by SIGTERM; --resume continues from model_0000003.pth", False),
        ("SIGTERM", False, -15, "", True),
        ("SIGTERM", True, -15, "", False),
        ("SIGTERM", True, 0, "", False),
        ("SIGINT", False, 130, "Traceback (most recent call last):\ninterrupted", False),
        (faults.KILL, True, -9, "", True),
        (faults.KILL, True, 1, "error: something", False),
        (faults.FULL_DISK, True, 1, "error: model.pth could not be written: File too large", True),
        (faults.FULL_DISK, True, 1, "error: one: File too large\nerror: two", False),
        (faults.FULL_DISK, True, 0, "", False),
        (
            faults.STOP_RANK,
            True,
            1,
            ABSENT.format(1),
            True,
        ),
        (
            faults.STOP_RANK,
            True,
            1,
            ABSENT.format(0),
            False,
        ),
    ],
)
def test_complaints__are_of_ends_that_are_not_documented(fault, wrote, status, printed, good):
    strike = faults.Strike(fault, faults.STEPPING, 1, 0.5, 0.5, False)
    struck = faults.Struck(fault, wrote, late=False, rank=1)
    assert (faults.complaints(strike, struck, status, printed) == []) == good


def test_grown__more_files_or_memory_late_than_early():
    flat = [processes.Sample(1000, 10, 5)] * 9
    assert processes.grown(processes.growth(flat)) == []
    leaking = [replace(one, files=10 + n, memory=1000 + 50 * n) for n, one in enumerate(flat)]
    assert [line.split(":")[0] for line in processes.grown(processes.growth(leaking))] == ["memory", "files"]


@pytest.fixture
def toy_soak(tmp_path, monkeypatch):
    """Start or go on with a soak of the toy training, of which a part may be another; each round has a kill."""
    (tmp_path / "data" / "unlabelled").mkdir(parents=True)
    (tmp_path / "data" / "unlabelled" / "0.jpg").write_bytes(b"image")
    monkeypatch.setattr(soak, "schedule", lambda *_: [faults.Strike(faults.KILL, faults.STEPPING, 1, 0.0, 0.5, False)])
    monkeypatch.setattr(ends.torch, "load", lambda path, **_: json.loads(path.read_text()))

    def start(right="", wrong=""):
        program = TRAINING.replace(right, wrong)
        monkeypatch.setattr(soak.Soak, "command", lambda *_: [sys.executable, "-c", program, str(_[-1])])
        one = soak.Soak(tmp_path, 0, [faults.KILL], [TOY])
        one.prepare()
        return one

    return start


def test_soak__goes_on_where_it_was_and_reports_rounds_without_violations(toy_soak, tmp_path):
    toy_soak().play()
    assert [one.name for one in (tmp_path / "rounds").iterdir()] == []
    toy_soak().play()
    report = toy_soak().state
    assert [one["number"] for one in report["rounds"]] == [0, 1]
    assert [[attempt["status"] for attempt in one["attempts"]] for one in report["rounds"]] == [[-9, 0]] * 2
    assert soak.violations(report) == []
    assert "| toy | 2 | 4 | 2 |" in soak.table(report)
    assert "| SIGKILL | 2 | -9: 2 |" in soak.table(report)
    with pytest.raises(ValueError, match=r"soak.json records a soak of .*'seed': 0.*, not of .*'seed': 1"):
        soak.Soak(tmp_path, 1, [faults.KILL], [TOY])


@pytest.mark.parametrize("right", BUGS)
def test_soak__finds_what_a_training_does_wrong_among_faults(toy_soak, tmp_path, right):
    wrong, what = BUGS[right]
    round_ = toy_soak(right, wrong).play()
    assert any(what in violation for violation in round_.violations), round_.violations
    assert (tmp_path / "rounds" / "0000" / "output").is_dir()
    assert "0, seed 0: " in soak.table(toy_soak().state)


def test_left_over__is_what_neither_pytorch_nor_a_killed_process_leaves(tmp_path):
    for name in ("pymp-a", "torchinductor_me", "some.sock", "tmpogeo0n6i", "tmpogeo0n6j"):
        (tmp_path / name).touch()
    assert [path.name for path in soak.left_over(tmp_path, 2)] == ["some.sock", "tmpogeo0n6j"]
    assert list(tmp_path.iterdir()) == []


def test_run__tells_the_processes_that_stay_when_it_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FAREWELL", 0.3)
    command = ["sh", "-c", "sleep 1000 & echo begun"]
    run = processes.Run(TOY, command, tmp_path, tmp_path / "terminal.txt", os.environ, Tether())
    run.wait()
    (left,) = run.leave()
    assert (run.status, left.command) == (0, "sleep 1000 ")
    assert processes.processes_of(run.pid) == []
    assert run.printed() == "begun\n"
