import re
import subprocess
import sys
from pathlib import Path

import pytest

from mocodet import configs
from mocodet.common.study import run as study_run
from mocodet.common.study.trials import Init
from tests.commands import study


def inits_of(arguments: list[str], monkeypatch) -> dict[str, Init]:
    seen = {}
    monkeypatch.setattr(study_run, "run_study", lambda inits, *others: seen.update(inits))
    study([*arguments, "--reference", "mine", "--output", "study"])
    return seen


def test_main__finds_a_config_as_config_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "toy_R_18_FPN_moco.yaml"
    Path("mine.yaml").write_text("VERSION: 2\n")
    arguments = ["--init", "mine=mine.yaml", "--init", f"moco={name},MODEL.WEIGHTS=x.pkl"]
    expected = {"mine": Init(Path("mine.yaml")), "moco": Init(configs.path(name), ("MODEL.WEIGHTS", "x.pkl"))}
    assert inits_of(arguments, monkeypatch) == expected
    Path(name).write_text("VERSION: 2\n")  # a file of one's own comes before mocodet's
    assert inits_of(arguments, monkeypatch) == {**expected, "moco": Init(Path(name), expected["moco"].opts)}


def test_main__a_config_that_is_nowhere_is_told_in_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        inits_of(["--init", "mine=toy.yaml"], monkeypatch)
    message = r"error: --init mine: no config named 'toy\.yaml'; there are: .*toy_R_18_FPN_moco\.yaml"
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


def test_main__imports_nothing_heavy():
    script = "import sys, mocodet.common.study.run; print(*{'torch', 'numpy', 'detectron2'}.intersection(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
