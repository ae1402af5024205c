import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from mocodet.common.commands.study import parse_init
from mocodet.common.study import run as study_run
from mocodet.common.study import trials as trials_module
from mocodet.common.study.run import run_study
from mocodet.common.study.trials import Init, plan_trials, run_trials
from tests.commands import study as run_command

# A training command in small: notes how it was called, "trains" for 10 iterations, fails where told to.
FAKE_TRAINING = """
import json, pathlib, sys

arguments = sys.argv[1:]
pairs = arguments[arguments.index("--config-file") + 2:]
resume = "--resume" in pairs
pairs = [word for word in pairs if word != "--resume"]
options = dict(zip(pairs[::2], pairs[1::2]))
folder, seed = pathlib.Path(options["OUTPUT_DIR"]), int(options["SEED"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder.parents[1] / "calls.txt", "a") as handle:
    handle.write(f"{folder.parent.name} {seed} {'resumed' if resume else 'fresh'}\\n")
(folder / "last_checkpoint").write_text("model_0000004.pth")
(folder / "config.yaml").write_text("SOLVER: {MAX_ITER: 10}")
broken = folder.parents[1] / "broken"
if broken.exists() and broken.read_text() == f"{folder.parent.name} {seed}":
    sys.exit(3)
ap = float(options["AP"]) + seed
line = {"iteration": 10, "bbox/AP50": ap + 2, "bbox/AP": ap, "bbox/AP75": ap - 2}
(folder / "metrics.json").write_text(json.dumps(line) + "\\n")
"""


@pytest.fixture
def study(tmp_path):
    """Give a folder with a fake training command and two configs, and the arguments of a study of 2 x 2 trials."""
    (tmp_path / "train.py").write_text(FAKE_TRAINING)
    (tmp_path / "moco.yaml").write_text("MODEL: {WEIGHTS: ''}\n")
    (tmp_path / "random.yaml").write_text("MODEL: {WEIGHTS: ''}\n")
    return {
        "inits": {
            "moco": Init(tmp_path / "moco.yaml", ("AP", "40")),
            "random": Init(tmp_path / "random.yaml", ("AP", "30")),
        },
        "reference": "random",
        "seeds": [0, 2],
        "output": tmp_path / "study",
        "train_command": [sys.executable, str(tmp_path / "train.py")],
    }


def calls(study) -> list[str]:
    path = Path(study["output"]) / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_run_study__runs_each_trial_once_and_reports(study):
    table = run_study(**study)
    assert calls(study) == ["moco 0 fresh", "random 0 fresh", "moco 2 fresh", "random 2 fresh"]
    # moco: AP 40 and 42; random: 30 and 32; sample standard deviation of two values 2 apart: sqrt(2)
    assert "41.0 ± 1.4 (+10.0*)" in table
    assert (study["output"] / "report.txt").read_text() == table + "\n"
    assert "41.0 ± 1.4 (**+10.0**)" in (study["output"] / "report.md").read_text()
    content = json.loads((study["output"] / "results.json").read_text())
    assert content["seeds"] == [0, 2]
    assert [trial["bbox/AP"] for trial in content["results"]["random"]] == [30.0, 32.0]


def test_run_study__finished_trials_are_skipped(study):
    first = run_study(**study)
    assert run_study(**study) == first
    assert len(calls(study)) == 4


def test_run_study__failed_trial_is_named_and_resumed(study):
    study["output"].mkdir()
    (study["output"] / "broken").write_text("random 0")
    with pytest.raises(RuntimeError, match=r"random, seed 0 failed: exit status 3"):
        run_study(**study)
    assert not (study["output"] / "report.txt").exists()
    (study["output"] / "broken").unlink()
    run_study(**study)
    assert calls(study) == ["moco 0 fresh", "random 0 fresh", "random 0 resumed", "moco 2 fresh", "random 2 fresh"]


def test_run_study__two_jobs_give_the_same_table_and_name_their_lines(study, capfd):
    one = run_study(**study)
    study["output"] = study["output"].with_name("again")
    study["train_command"] = [*study["train_command"][:1], "-c", f"print('hello'); {FAKE_TRAINING}"]
    assert run_study(**study, jobs=2) == one
    assert sorted(calls(study)) == ["moco 0 fresh", "moco 2 fresh", "random 0 fresh", "random 2 fresh"]
    lines = [line for line in capfd.readouterr().out.splitlines() if line.endswith("hello")]
    assert sorted(lines) == [f"[{name}, seed {seed}] hello" for name in ("moco", "random") for seed in (0, 2)]


def test_run_study__two_jobs_stop_at_a_failure(study):
    study["output"].mkdir()
    (study["output"] / "broken").write_text("moco 0")
    with pytest.raises(RuntimeError, match="trial moco, seed 0 failed: exit status 3"):
        run_study(**study, jobs=2)
    assert not (study["output"] / "report.txt").exists()
    with pytest.raises(ValueError, match="at least one job, got 0"):
        run_study(**study, jobs=0)


def test_run_study__more_seeds_keep_what_is_there(study):
    run_study(**study)
    run_study(**{**study, "seeds": [0, 1, 2]})
    assert calls(study)[4:] == ["moco 1 fresh", "random 1 fresh"]


def test_run_study__trial_without_result_is_named(study, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(script.read_text().replace('"iteration": 10', '"iteration": 5'))
    with pytest.raises(ValueError, match=r"moco, seed 0 ended without a usable result: .*iteration 5"):
        run_study(**study)


class Clock(threading.local):
    """Each job's clock: ten minutes later after a trial that is trained, five after one that is resumed."""

    now = 0.0


@pytest.fixture
def clock(monkeypatch):
    clock, run = Clock(), trials_module._run

    def timed(trial, *rest):
        clock.now += 300 if (trial.folder / "last_checkpoint").is_file() else 600
        run(trial, *rest)

    monkeypatch.setattr(trials_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(trials_module, "_run", timed)


def announced(study, jobs=1):
    lines = []
    trials = plan_trials(study["inits"], study["seeds"], study["output"])
    run_trials(trials, study["train_command"], announce=lines.append, jobs=jobs)
    return [line.replace(str(study["output"]), "...") for line in lines]


def test_run_trials__tells_the_time_left(study, clock):
    assert announced(study) == [
        "trial 1 of 4: moco, seed 0: training in .../moco/seed_0",
        "trial 2 of 4: random, seed 0: training in .../random/seed_0; about 30 min left",
        "trial 3 of 4: moco, seed 2: training in .../moco/seed_2; about 20 min left",
        "trial 4 of 4: random, seed 2: training in .../random/seed_2; about 10 min left",
    ]


def test_run_trials__what_was_trained_before_tells_nothing_of_the_time_left(study, clock):
    """One trial is finished, the next was interrupted; only the third, the first of this run's own, is a measure."""
    study["output"].mkdir()
    (study["output"] / "broken").write_text("random 0")
    with pytest.raises(RuntimeError):
        announced(study)
    (study["output"] / "broken").unlink()
    assert announced(study) == [
        "trial 1 of 4: moco, seed 0: already finished",
        "trial 2 of 4: random, seed 0: training in .../random/seed_0",
        "trial 3 of 4: moco, seed 2: training in .../moco/seed_2",
        "trial 4 of 4: random, seed 2: training in .../random/seed_2; about 10 min left",
    ]


def test_run_trials__jobs_divide_the_time_left(study, clock):
    study["seeds"] = [0, 1, 2, 3]
    left = {int(line.split()[1]): line.partition("; ")[2] for line in announced(study, jobs=2)}
    assert sorted(left) == list(range(1, 9))  # two jobs may announce theirs in either order
    for number, text in left.items():
        # The trial before this one is running still, or has ended.
        allowed = {f"about {5 * max(2, 8 - ended)} min left" for ended in (number - 2, number - 1)}
        assert text in (allowed if number > 2 else {""} | allowed), number


@pytest.mark.parametrize("change", ["config", "base", "weights", "opts"])
def test_run_study__other_recipe_is_refused(study, tmp_path, change):
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 10}\n")
    (tmp_path / "moco.pkl").write_bytes(b"first")
    config = f"_BASE_: base.yaml\nMODEL: {{WEIGHTS: {tmp_path / 'moco.pkl'}}}\n"
    (tmp_path / "moco.yaml").write_text(config)
    run_study(**study)
    match change:
        case "config":
            (tmp_path / "moco.yaml").write_text(config + "VERSION: 2\n")
        case "base":
            (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 20}\n")
        case "weights":
            (tmp_path / "moco.pkl").write_bytes(b"second")
        case "opts":
            study["opts"] = ["SOLVER.MAX_ITER", "20"]
    with pytest.raises(ValueError, match="holds a trial of another recipe") as error:
        run_study(**study)
    assert {"config": "config_sha256", "base": "config_sha256"}.get(change, change) in str(error.value)
    assert len(calls(study)) == 4


def test_run_trials__foreign_folder_is_refused(study):
    folder = study["output"] / "moco" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("somebody else's")
    with pytest.raises(ValueError, match="no trial of a study"):
        run_study(**study)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SEED", "1"], "SEED differs from trial to trial"),
        (["OUTPUT_DIR", "x"], "OUTPUT_DIR differs from trial to trial"),
        (["SOLVER.MAX_ITER"], "pairs KEY VALUE"),
    ],
)
def test_run_trials__bad_overrides(study, opts, message):
    trials = plan_trials(study["inits"], study["seeds"], study["output"])
    with pytest.raises(ValueError, match=message):
        run_trials(trials, study["train_command"], opts)
    assert calls(study) == []


@pytest.mark.parametrize(
    ("names", "seeds", "message"),
    [
        (["moco"], [], "at least one"),
        ([], [0], "at least one"),
        (["moco"], [1, 1], "different"),
        (["moco"], [-1], "not negative"),
        (["../moco"], [0], "cannot name an initialisation"),
    ],
)
def test_plan_trials__refuses(study, names, seeds, message):
    with pytest.raises(ValueError, match=message):
        plan_trials(dict.fromkeys(names, study["inits"]["moco"]), seeds, study["output"])


def test_plan_trials__missing_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.yaml for the initialisation 'moco'"):
        plan_trials({"moco": Init(tmp_path / "absent.yaml")}, [0], tmp_path)


def test_parse_init():
    assert parse_init("moco=a.yaml") == ("moco", "a.yaml", ())
    assert parse_init("v2=a.yaml,MODEL.WEIGHTS=b=c.pkl,SOLVER.BASE_LR=0.1") == (
        "v2",
        "a.yaml",
        ("MODEL.WEIGHTS", "b=c.pkl", "SOLVER.BASE_LR", "0.1"),
    )


def test_main(study, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(study_run, "TRAIN_COMMAND", study["train_command"])
    arguments = ["--init", f"moco={tmp_path / 'moco.yaml'},AP=40", "--init", f"random={tmp_path / 'random.yaml'},AP=30"]
    arguments += ["--reference", "random", "--seeds", "1", "--first-seed", "4", "--output", str(study["output"])]
    run_command(arguments)
    assert calls(study) == ["moco 4 fresh", "random 4 fresh"]
    assert "44.0 (+10.0*)" in capfd.readouterr().out


def test_main__error_is_the_exit_status(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study_run, "TRAIN_COMMAND", study["train_command"])
    study["output"].mkdir()
    (study["output"] / "broken").write_text("moco 0")
    arguments = ["--init", f"moco={tmp_path / 'moco.yaml'},AP=40", "--reference", "moco", "--seeds", "1"]
    with pytest.raises(SystemExit, match=r"^error: .*moco, seed 0"):
        run_command([*arguments, "--output", str(study["output"])])


def test_main__unknown_reference(study, tmp_path, capfd):
    arguments = ["--init", f"moco={tmp_path / 'moco.yaml'}", "--init", f"random={tmp_path / 'random.yaml'}"]
    with pytest.raises(SystemExit) as stop:
        run_command([*arguments, "--reference", "supervised", "--output", str(study["output"])])
    assert stop.value.code == 2
    assert "the reference 'supervised' is not among the initialisations moco, random" in capfd.readouterr().err
    assert not study["output"].exists()


@pytest.mark.parametrize("argument", ["moco", "=a.yaml", "moco=", "moco=a.yaml,", "moco=a.yaml,KEY"])
def test_main__bad_init(study, argument, capfd):
    with pytest.raises(SystemExit) as stop:
        run_command(["--init", argument, "--reference", "moco", "--output", str(study["output"])])
    assert stop.value.code == 2
    assert "NAME=CONFIG" in capfd.readouterr().err
