import fcntl
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from fvcore.common.config import CfgNode

from mocodet import configs
from tests.common.study import toy_study
from tests.common.study.killing import harass, records, start

YAML = """
NAME: toy
DETECTORS:
  A: {CONFIG: toy_R_18_FPN.yaml, OPTS: {SOLVER.MAX_ITER: 2}}
INITS:
  moco: {WEIGHTS: '', OPTS: {AP: 40}}
  random:
REFERENCE: random
SEEDS: [0, 2]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with the file ``toy.yaml``: a study of 2 x 2 trials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOCODET_GPUS", "")
    Path("toy.yaml").write_text(YAML)
    return tmp_path


def study(*words):
    toy_study.study("toy.yaml", "--output", "study", *words)


def results():
    return json.loads(Path("study/results.json").read_text())


def states():
    return {(trial["init"], trial["seed"]): trial["status"] for trial in results()["trials"]}


def noted(here):
    return [f"{name.split('/')[1]} {name.rpartition('_')[2]} {word}" for name, word, _, _ in records(here)]


def test_study__trains_each_trial_once_and_tabulates(here, capsys):
    study()
    once = [f"{init} {seed} {word}" for seed in (0, 2) for init in ("moco", "random") for word in ("begin:0", "end")]
    assert noted(here) == once
    printed = capsys.readouterr().out
    assert "  moco, seed 0: to be trained\n" in printed
    assert "moco, seed 2: finished\n" in printed
    # AP 40 and 42; 30 and 32
    assert re.search(r"random +2 .*\n *moco +2 .*41.0 .*\+10.0", Path("study/report.txt").read_text())
    assert Path("study/report.txt").read_text() in printed
    content = results()
    assert (content["version"], content["name"], content["reference"]) == (2, "toy", "random")
    assert set(states().values()) == {"finished"}
    first = content["trials"][0]
    assert first["metrics"] == {"bbox/AP50": 42.0, "bbox/AP": 40.0, "bbox/AP75": 38.0}
    assert first["folder"] == "A/moco/labels_100/seed_0"
    assert first["command"][:3] == ["mocodet", "train", "--config-file"]
    assert first["seconds"] > 0

    study()
    assert noted(here) == once, "nothing is trained again"
    assert "  moco, seed 0: finished\n" in capsys.readouterr().out
    study("--first-seed", "1")  # as many as the file has: 1 and 2
    assert noted(here)[len(once) :] == ["moco 1 begin:0", "moco 1 end", "random 1 begin:0", "random 1 end"]
    study("--seeds", "1")  # the least of the file's
    assert [trial["seed"] for trial in results()["trials"]] == [0, 0]


def test_study__flags_describe_one(here, capsys):
    inits = ["--init", "a=toy_R_18_FPN_random.yaml,AP=50", "--init", "b=toy_R_18_FPN_random.yaml"]
    toy_study.study(*inits, "--reference", "b", "--seeds", 1, "--output", "study", "AP", 20)
    found = {trial["init"]: (trial["folder"], trial["metrics"]["bbox/AP"]) for trial in results()["trials"]}
    # An initialisation's own override takes precedence over the shared one.
    assert found == {"a": ("detector/a/labels_100/seed_0", 50.0), "b": ("detector/b/labels_100/seed_0", 20.0)}


def test_study__a_failed_trial_stops_no_other_and_is_tried_again(here):
    with pytest.raises(SystemExit) as stop:
        study("--seeds", 1, "FAIL", 3)
    assert stop.value.code.splitlines() == [
        "error: 2 of 2 trials failed; run the same command again to retry them",
        *(
            f"  {init}, seed 0 failed: exit status 3; see study.log in the trial's folder"
            f" (output: study/A/{init}/labels_100/seed_0/study.log)"
            for init in ("moco", "random")
        ),
    ]
    assert states() == {("moco", 0): "failed", ("random", 0): "failed"}
    assert not Path("study/report.txt").exists()
    study("--seeds", 1)  # corrected
    assert noted(here) == [
        *("moco 0 begin:0", "random 0 begin:0"),
        *("moco 0 begin:0", "moco 0 end", "random 0 begin:0", "random 0 end"),
    ], "another recipe's checkpoints are not gone on from"


def test_study__an_unfinished_trial_of_another_recipe_is_kept_beside(here, capsys):
    for _ in range(2):
        with pytest.raises(SystemExit):
            study("--seeds", 1, "FAIL", 3)
        Path("study/A/moco/labels_100/seed_0/outcome.json").unlink()  # as if its study had been killed
        capsys.readouterr()
        study("--seeds", 1)
        assert (
            "  moco, seed 0: replaces an unfinished trial (kept in a renamed folder) that has another recipe: FAIL"
            " was 3 and is now not set\n" in capsys.readouterr().out
        )
        shutil.rmtree("study/A/random")
        shutil.rmtree("study/A/moco/labels_100/seed_0")
    kept = sorted(Path("study/A/moco/labels_100").iterdir())
    assert [path.name for path in kept] == ["seed_0.replaced", "seed_0.replaced_2"]
    assert all((path / "last_checkpoint").read_text() == "2" for path in kept)


def test_study__same_recipe_resumes(here, capsys):
    folder = Path("study/A/moco/labels_100/seed_0")
    with pytest.raises(SystemExit):
        study("--seeds", 1, "FAIL", 3)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        study("--seeds", 1, "FAIL", 3)
    assert (
        "seed 0: resumes from its last checkpoint after an earlier failure (exit status 3;" in capsys.readouterr().out
    )
    assert noted(here)[2:] == ["moco 0 begin:2", "random 0 begin:2"]
    assert json.loads((folder / "outcome.json").read_text())["whole"] is False


def test_study__finished_trials_of_another_recipe_are_refused_in_words(here, capsys):
    study("--seeds", 1)
    Path("study/A/random/labels_100/seed_0/outcome.json").unlink()  # killed before its study noted the end
    with pytest.raises(SystemExit, match=r"^error: 2 of 4 trials cannot be trained for the reasons above"):
        study("SOLVER.MAX_ITER", 5)
    printed = capsys.readouterr().out
    for init in ("moco", "random"):
        folder = f"study/A/{init}/labels_100/seed_0"
        message = (
            f"{init}, seed 0: {folder} contains a finished trial with another recipe; move it, or choose another "
            "--output: SOLVER.MAX_ITER was 2 and is now 5\n"
        )
        assert message in printed
    assert "moco, seed 2: to be trained" in printed
    assert len(noted(here)) == 4


def test_study__a_trial_without_result_has_failed(here):
    with pytest.raises(SystemExit, match=r"training ended without a usable result: .*bbox/AP50 .*, found nan"):
        study("--seeds", 1, "AP", "nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"toy_R_18_FPN.yaml": "toy_R_18_FPM.yaml"},
            "the config toy_R_18_FPM_moco.yaml does not exist; did you mean toy_R_18_FPN_",
        ),
        ({"WEIGHTS: ''": "WEIGHTS: none.pkl"}, "moco, seed 2: MODEL.WEIGHTS is set to none.pkl, which does not exist"),
        (
            {"AP: 40": "TYPO: 40"},
            "  moco, seed 2: .*toy_R_18_FPN_moco.yaml: no key TYPO\n  random, seed 2: to be trained",
        ),
        (
            {"SOLVER.MAX_ITER: 2": "DATASETS.TEST: [a, b]"},
            r"DATASETS.TEST contains 2 data sets \(a, b\); a study requires exactly one",
        ),
        ({"toy_R_18_FPN.yaml": "bad.yaml"}, r"bad_moco\.yaml contains a list; expected a YAML config"),
    ],
)
def test_study__faults_are_told_before_anything_is_trained(here, capsys, change, message):
    Path("bad_moco.yaml").write_text("- a")
    text = YAML
    for before, after in change.items():
        text = text.replace(before, after)
    Path("toy.yaml").write_text(text)
    with pytest.raises(SystemExit, match=r"of 4 trials cannot be trained for the reasons above; no trial was started"):
        study()
    assert re.search(message, capsys.readouterr().out)
    assert not Path("study/records.txt").exists()


def test_study__configs_that_cannot_be_checked(here, monkeypatch):
    monkeypatch.setattr(toy_study, "REFUSALS", "raise ImportError('no detectron2')")
    with pytest.raises(SystemExit, match=r"^error: the configs cannot be checked: ImportError: no detectron2"):
        study()


def test_study__a_strange_folder_is_refused(here, capsys):
    folder = Path("study/A/moco/labels_100/seed_0")
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(SystemExit):
        study()
    assert f"{folder} is not empty, but contains no training run of a study; move it" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_study__what_a_killed_or_refused_start_left_is_no_training(here):
    folders = [Path(f"study/A/{init}/labels_100/seed_0") for init in ("moco", "random")]
    for folder, name in zip(folders, (".trial.json.x1.tmp", "log.txt"), strict=True):
        folder.mkdir(parents=True)
        (folder / name).touch()
    study("--seeds", 1)
    assert states() == {("moco", 0): "finished", ("random", 0): "finished"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--jobs", 2, "--print-commands"), "--jobs cannot be combined with --print-commands, which does not train"),
        (("collect", "--gpus-per-trial", 0), "--gpus-per-trial cannot be combined with collect, which does not train"),
        (("collect", "--print-commands"), "--print-commands cannot be combined with collect, which does not train"),
    ],
)
def test_study__flags_without_effect_are_refused(here, capsys, words, message):
    with pytest.raises(SystemExit):
        toy_study.study(*words, "toy.yaml")
    assert message in capsys.readouterr().err


def test_collect__a_failed_trial_may_be_trained_elsewhere_with_weights_that_are_not_here(here, capsys):
    with pytest.raises(SystemExit, match="2 of 2 trials failed"):
        study("--seeds", 1, "FAIL", "file")
    study("--seeds", 1, "--print-commands", "FAIL", "file")
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])[3:]  # random's
    run_elsewhere(["" if word == "file" else word for word in words])
    Path("toy.yaml").write_text(YAML.replace("WEIGHTS: ''", "WEIGHTS: none.pkl"))
    with pytest.raises(SystemExit, match=r"^error: only 1 of 2 trials have finished"):
        toy_study.study("collect", "toy.yaml", "--output", "study", "--seeds", 1, "FAIL", "file")
    assert states() == {("moco", 0): "waiting", ("random", 0): "finished"}


def run_elsewhere(words):
    """Train by the toy command, and write the ``config.yaml`` that ``mocodet train`` would."""
    subprocess.run([sys.executable, toy_study.COMMAND[1], *words], check=True)
    config, *pairs = words[words.index("--config-file") + 1 :]
    full = CfgNode.load_yaml_with_base(str(configs.locate(config)))
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        *parents, last = key.split(".")
        node = full
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = yaml.safe_load(value) if value else ""
    (Path(full["OUTPUT_DIR"]) / "config.yaml").write_text(yaml.safe_dump(full))


def test_print_commands__then_collect(here, capsys):
    study("--print-commands", "--gpus-per-trial", 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert sorted(path.name for path in Path("study").iterdir()) == ["study.json"]
    for line in lines[1:]:
        assert line.startswith("mocodet train --num-gpus 2 --resume --config-file ")
        words = shlex.split(line)[5:]
        Path(words[words.index("OUTPUT_DIR") + 1]).mkdir(parents=True)
        run_elsewhere(words)
    with pytest.raises(SystemExit, match=r"^error: only 3 of 4 trials have finished"):
        toy_study.study("collect", "study")
    finished = {("random", 0): "finished", ("moco", 2): "finished", ("random", 2): "finished"}
    assert states() == {("moco", 0): "waiting", **finished}
    assert "seed 0: to be trained" in capsys.readouterr().out
    study("--print-commands")
    assert capsys.readouterr().out.splitlines() == [lines[0].replace(" --num-gpus 2", "")]
    with pytest.raises(SystemExit, match="3 of 4 trials cannot"):
        toy_study.study("collect", "toy.yaml", "--output", "study", "MODEL.RESNETS.DEPTH", 50)
    assert "choose another --output: MODEL.RESNETS.DEPTH was 18 and is now 50" in capsys.readouterr().out


def wait_for(folder, count):
    """Wait until the study in ``folder`` has recorded a number of lines."""
    deadline = time.monotonic() + 60
    while not (folder / "study" / "records.txt").exists() or len(records(folder)) < count:
        assert time.monotonic() < deadline, (folder / "printed.txt").read_text()
        time.sleep(0.05)


def alive(folder):
    """Return the trials whose process still holds its folder."""
    held = []
    for path in (folder / "study").rglob("only_one"):
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path.parent)
    return held


def test_study__killed_at_random_moments(tmp_path):
    stream = random.Random(0)
    moments = [stream.uniform(0.5, 1.5) for _ in range(2)]
    harass(tmp_path, seeds=1, jobs=2, sleep=0.1, moments=moments, stream=stream)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_study__its_end_is_that_of_its_trials(tmp_path, number):
    process = start(tmp_path, seeds=1, jobs=2, sleep=30)
    wait_for(tmp_path, 2)
    assert len(alive(tmp_path)) == 2
    if number == signal.SIGTERM:  # no other process may use the folder at the same time
        second = subprocess.run(process.args, cwd=tmp_path, capture_output=True, text=True)
        assert second.returncode == 1
        assert re.match(r"error: another process \(pid .*\) runs a study in study; wait for it", second.stderr)
        content = json.loads((tmp_path / "study" / "results.json").read_text())
        assert [trial["status"] for trial in content["trials"]] == [*["running"] * 2, *["waiting"] * 2]
    process.send_signal(number)
    status = process.wait(timeout=30)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 30
    while alive(tmp_path):
        assert time.monotonic() < deadline, "a trial outlives its study"
        time.sleep(0.02)
    if status > 0:
        assert "interrupted; run the same command again to resume" in (tmp_path / "printed.txt").read_text()


def test_study__two_trials_never_share_a_gpu(here, monkeypatch):
    monkeypatch.setenv("MOCODET_GPUS", "4,7")
    study("--seeds", 3, "SLEEP", 0.05)
    spans = {}
    for name, word, gpu, moment in records(here):
        spans.setdefault((gpu, name), []).append((float(moment), word))
    assert {gpu for gpu, _ in spans} == {"4", "7"}
    for wanted in ("4", "7"):
        turns = sorted((moments[0][0], moments[1][0]) for (gpu, _), moments in spans.items() if gpu == wanted)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(turns))
    assert len(spans) == 6
    with pytest.raises(SystemExit, match=r"--gpus-per-trial 3 exceeds the number of available GPUs, 2 \(4, 7\)"):
        study("--gpus-per-trial", 3)


def test_main__imports_nothing_heavy():
    script = "import sys, mocodet.common.study.run; print(*{'torch', 'detectron2'}.intersection(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
