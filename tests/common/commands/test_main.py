"""The one command: help and refusals at once, without PyTorch; the table leads to what does the work."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mocodet.common.commands import main as module
from mocodet.common.commands.main import main, parse
from mocodet.common.commands.table import COMMANDS, PROGRAM

NAMES = [command.name for command in COMMANDS]

# Run with the arguments of mocodet; the last line of the output is the exit status and the heavy packages imported.
WATCHED = """
import json, sys
from mocodet.__main__ import main
try:
    main()
    status = 0
except SystemExit as stop:
    status = stop.code
heavy = [name for name in ("torch", "torchvision", "detectron2", "numpy", "fvcore") if name in sys.modules]
print()
print(json.dumps([status, heavy]))
"""


def watch(*arguments: str) -> tuple[str, int, list[str]]:
    """Return what a process of its own printed, its status, and which heavy packages it imported."""
    done = subprocess.run([sys.executable, "-c", WATCHED, *arguments], capture_output=True, text=True, check=True)
    status, heavy = json.loads(done.stdout.splitlines()[-1])
    return done.stdout + done.stderr, status, heavy


@pytest.mark.parametrize("name", NAMES)
def test_help__imports_nothing_heavy(name):
    printed, status, heavy = watch(name, "--help")
    assert (status, heavy) == (0, [])
    assert f"usage: mocodet {name}" in printed


@pytest.mark.parametrize("name", NAMES)
def test_bad_flag__is_refused_before_anything_heavy(name):
    printed, status, heavy = watch(name, "--no-such-flag")
    assert (status, heavy) == (2, [])
    assert f"mocodet {name}: error: " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config-file", "x.yaml", "--eval-only", "--scale-to-gpus"], "leave it out with --eval-only"),
        (["pretrain", "--config-file", "x.yaml", "--export", "y", "--resume"], "--export trains nothing"),
        (["convert", "moco://v2_200ep", "x.pkl"], "is a name for MODEL.WEIGHTS"),
        (["shards", "--output", "x"], "give either a FOLDER"),
        (["knn", "x.pth", "--train", "a", "--val", "b", "--k", "0"], "--k"),
        (["costs", "--config-file", "x", "--images", "-1"], "invalid positive int value: '-1'"),
    ],
)
def test_flags_that_do_not_go_together__are_refused_before_anything_heavy(arguments, message):
    printed, status, heavy = watch(*arguments)
    assert (status, heavy) == (2, [])
    assert message in printed


def test_help__lists_every_command():
    printed, status, heavy = watch("--help")
    assert (status, heavy) == (0, [])
    for command in COMMANDS:
        assert f"  {command.name} " in printed
        assert command.help in printed


@pytest.mark.parametrize("words", [[], ["pretrian"], ["--version"]])
def test_main__an_unknown_command_names_the_known(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "pretrain" in told or "COMMAND" in told


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_table__leads_to_a_function(command):
    package, _, function = command.does.partition(":")
    assert callable(getattr(importlib.import_module(package), function))


def test_run__is_what_setup_installs():
    (line,) = [
        line for line in (Path(__file__).parents[3] / "setup.py").read_text().splitlines() if "console_scripts" in line
    ]
    name, package, function = re.search(r'\["(\w+)=([\w.]+):(\w+)"\]', line).groups()
    assert name == PROGRAM
    assert getattr(importlib.import_module(package), function) is module.run


def test_main__calls_the_function_with_the_parsed_arguments(monkeypatch):
    seen = []
    command = COMMANDS[NAMES.index("convert")]
    package = importlib.import_module(command.does.partition(":")[0])
    monkeypatch.setattr(package, "main", lambda args: seen.append(args))
    main(["convert", "a.pth", "b.pkl", "--prefix", "x."])
    assert seen == [parse(command, ["a.pth", "b.pkl", "--prefix", "x."])]


def test_run__hides_the_warnings_that_are_not_the_users():
    script = "import sys; sys.argv[1:] = ['costs', '--help']\nfrom mocodet.__main__ import main\n"
    script += "try:\n    main()\nexcept SystemExit:\n    pass\n"
    script += "import os, warnings; warnings.warn('`torch.jit.script` is deprecated.', FutureWarning)\n"
    script += "warnings.warn('mine', FutureWarning)\nprint(os.environ['PYTHONWARNINGS'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "mine" in done.stderr
    assert "torch.jit" not in done.stderr
    assert "ignore:torch.meshgrid" in done.stdout
