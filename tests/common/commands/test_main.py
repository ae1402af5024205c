"""The command: help and refusals at once, without PyTorch; the table leads to the functions that do the work."""

import argparse
import importlib
import json
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

import mocodet
from mocodet.common.commands import main as module
from mocodet.common.commands.main import OPENMP, main, parse, parser_of
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
    """Return the output of a separate process, its status, and the heavy packages that it imported."""
    done = subprocess.run([sys.executable, "-c", WATCHED, *arguments], capture_output=True, text=True, check=True)
    status, heavy = json.loads(done.stdout.splitlines()[-1])
    return done.stdout + done.stderr, status, heavy


@pytest.mark.parametrize("name", NAMES)
def test_help__imports_nothing_heavy(name):
    printed, status, heavy = watch(name, "--help")
    assert (status, heavy) == (0, [])
    assert f"usage: mocodet {name}" in printed
    assert "Warning" not in printed


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options and arguments of a parser, and of the commands within it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert {choice.dest for choice in action._choices_actions if choice.help} == set(action.choices)
            for within in action.choices.values():
                yield from options(within)
        else:
            yield action


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help__every_option_has_a_text(command):
    assert not [option.option_strings or option.dest for option in options(parser_of(command)) if not option.help]


@pytest.mark.parametrize("name", NAMES)
def test_bad_flag__is_refused_before_anything_heavy(name):
    printed, status, heavy = watch(name, "--no-such-flag")
    assert (status, heavy) == (2, [])
    assert f"mocodet {name}: error: " in printed


TRAIN = ["train", "--config-file", "coco_R_50_FPN_2x_moco.yaml"]
PRETRAIN = ["pretrain", "--config-file", "pretrain/moco_v2_R_50_200ep.yaml"]
CLASSIFY = ["classify", "--config-file", "classification/inat18_R_50_100ep_moco.yaml"]
STUDY = ["study", "--init", "a=coco_R_50_FPN_2x_moco.yaml", "--reference", "a", "--output", "x"]
VISUALIZE = ["visualize", "--config-file", "coco_R_50_FPN_2x_moco.yaml", "--predictions", "a=x", "--output", "x"]
EVALUATE = ["evaluate", "x", "--config-file", "coco_R_50_FPN_2x_moco.yaml"]
KNN = ["knn", "x.pth", "--train", "a", "--val", "b"]
LINEAR = ["linear", "x.pth", "--train", "a", "--val", "b"]
COSTS = ["costs", "--config-file", "pretrain/moco_v2_R_50_200ep.yaml", "--images"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "--eval-only", "--scale-to-gpus"], "cannot be combined with --eval-only"),
        ([*PRETRAIN, "--export", "y", "--resume"], "--export does not train"),
        (["train", "--config", "a.yaml"], "error: unrecognized arguments: --config; did you mean --config-file? (see"),
        (["train", "--config"], "unrecognized arguments: --config; did you mean --config-file?"),
        ([*TRAIN, "--gpus", "2"], "error: unrecognized arguments: --gpus; did you mean --num-gpus? (see"),
        ([*PRETRAIN, "--gpus=2", "SEED", "3"], "error: unrecognized arguments: --gpus=2; did you mean --num-gpus?"),
        (["costs", "--config", "a.yaml", "8"], "error: unrecognized arguments: --config; did you mean --config-file?"),
        (["evaluate", "--config", "a.yaml", "x"], "error: unrecognized arguments: --config; did you mean --config-fil"),
        ([*TRAIN, "--resume", "True"], "error: --resume takes no value, but is followed by True; remove True (see"),
        ([*TRAIN, "--eval-only", "1", "SEED", "3"], "error: --eval-only takes no value, but is followed by 1; remove"),
        (["train", "3"], "error: expected a KEY such as SOLVER.BASE_LR; got '3'"),
        ([*TRAIN, "--num-gpus", "2", "3"], "error: expected a KEY such as SOLVER.BASE_LR; got '3'"),
        ([*TRAIN, "--resume", "SEED"], "error: SEED has no VALUE; expected KEY VALUE pairs at the end of the command"),
        ([*TRAIN, "SEED", "3", "--gpus", "2"], "error: --gpus must not follow the KEY VALUE pairs; put flags first:"),
        (["convert", "moco://v2_200ep", "x.pkl"], "is a name for MODEL.WEIGHTS"),
        (["convert", "x.pth", "y.pth"], "y.pth: the output must end in .pkl"),
        (["convert", "--to", "torchvision", "x.pth", "y.pkl"], "y.pkl: the output must not end in .pkl"),
        (["shards", "--output", "x"], "expected either a FOLDER"),
        (["shards", "--index", "a.tar", "--output", "x", "--resize", "9"], "--resize cannot be combined with --index"),
        ([*KNN, "--k", "0"], "--k: invalid positive int value: '0'"),
        ([*KNN, "--workers", "-1"], "--workers: invalid non-negative int value: '-1'"),
        ([*LINEAR, "--wd", "0", "-1"], "--wd: invalid non-negative float value: '-1'"),
        ([*LINEAR, "--steps", "5", "3"], "--steps 5 3: expected epochs in increasing order"),
        ([*LINEAR, "--steps", "0", "3"], "--steps: invalid positive int value: '0'"),
        ([*LINEAR, "--epochs", "5", "--steps", "3", "5"], "--steps 5 has no effect"),
        ([*COSTS, "-1"], "invalid positive int value: '-1'"),
        ([*TRAIN, "--num-gpus", "0"], "--num-gpus: invalid positive int value: '0'"),
        ([*PRETRAIN, "--num-machines", "2"], "--num-machines 2 requires --dist-url; pass the tcp://HOST:PORT"),
        ([*CLASSIFY, "--num-machines", "2", "--machine-rank", "2"], "--machine-rank 2 is out of range for --num-m"),
        ([*STUDY, "--seeds", "0"], "--seeds: invalid positive int value: '0'"),
        ([*STUDY, "--seed", "2"], "unrecognized arguments: --seed; did you mean --seeds?"),
        ([*STUDY, "--first-seed", "-1"], "--first-seed: invalid non-negative int value: '-1'"),
        ([*STUDY, "--init", "b=none.yaml"], "--init b: there is no config 'none.yaml'; expected the path"),
        (["prepare-data", "voc", "--check", "--workers", "-3"], "--workers: invalid non-negative int value: '-3'"),
        ([*VISUALIZE, "--image-id", "7", "--seed", "0"], "--seed cannot be combined with --image-id; use one"),
        ([*VISUALIZE, "--images", "0"], "--images: invalid positive int value: '0'"),
    ],
)
def test_bad_values__are_refused_before_anything_heavy(arguments, message):
    printed, status, heavy = watch(*arguments)
    assert (status, heavy) == (2, [])
    assert message in printed


@pytest.mark.parametrize("command", [TRAIN, PRETRAIN, CLASSIFY, VISUALIZE, EVALUATE, [*COSTS, "8"]], ids=str)
@pytest.mark.parametrize("fault", ["config", "pairs"])
def test_config__is_looked_for_before_anything_heavy(command, fault):
    printed, status, heavy = watch(
        *("none.yaml" if fault == "config" and word.endswith(".yaml") else word for word in command),
        *(["OUTPUT_DIR"] if fault == "pairs" else []),
    )
    assert (status, heavy) == (2, [])
    expected = {
        "config": "--config-file: there is no config 'none.yaml'; expected the path of a YAML file, or a config name",
        "pairs": "OUTPUT_DIR has no VALUE; expected KEY VALUE pairs at the end",
    }
    assert expected[fault] in printed


def test_version__is_told_without_importing_anything_heavy():
    printed, status, heavy = watch("--version")
    assert (status, heavy) == (0, [])
    for number, package in enumerate((mocodet, torch, torchvision)):
        # The distribution's version may leave out for which CUDA it is.
        told = printed.splitlines()[number].split("+")[0]
        assert told == f"{package.__name__} {package.__version__.split('+')[0]}"
    assert re.search(r"^detectron2 \d+\.\d+", printed, flags=re.MULTILINE)
    assert f"Python {sys.version.split()[0]}," in printed
    assert "Warning" not in printed


def test_help__lists_every_command():
    printed, status, heavy = watch("--help")
    assert (status, heavy) == (0, [])
    for command in COMMANDS:
        assert f"  {command.name} " in printed
        assert command.help in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: the following arguments are required: COMMAND"),
        (
            ["pretrian"],
            f"error: argument COMMAND: invalid choice: 'pretrian' (choose from {', '.join(NAMES)})"
            "; did you mean pretrain?",
        ),
        (["--verbose"], "error: the following arguments are required: COMMAND"),
    ],
)
def test_main__no_or_an_unknown_command_is_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    # From Python 3.12 on the choices stand without quotes.
    assert message.replace("'", "") in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_table__leads_to_a_function(command):
    package, _, function = command.does.partition(":")
    assert callable(getattr(importlib.import_module(package), function))


def test_run__is_what_setup_installs(monkeypatch):
    given = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(Path(__file__).parents[3])
    runpy.run_path("setup.py")
    (script,) = given["entry_points"]["console_scripts"]
    name, _, function = script.partition("=")
    assert name == PROGRAM
    assert pkgutil.resolve_name(function) is module.run


def test_main__calls_the_function_with_the_parsed_arguments(monkeypatch):
    seen = []
    command = COMMANDS[NAMES.index("convert")]
    package = importlib.import_module(command.does.partition(":")[0])
    monkeypatch.setattr(module, "keep_freed_memory", lambda: seen.append("memory"))
    monkeypatch.setattr(package, "main", lambda args: seen.append(args))
    main(["convert", "a.pth", "b.pkl", "--prefix", "x."])
    assert seen == ["memory", parse(command, ["a.pth", "b.pkl", "--prefix", "x."])]


def test_run__hides_the_warnings_that_are_not_the_users():
    script = "import sys; sys.argv[1:] = ['costs', '--help']\nfrom mocodet.__main__ import main\n"
    script += "try:\n    main()\nexcept SystemExit:\n    pass\n"
    script += "import os, warnings; warnings.warn('`torch.jit.script` is deprecated.', FutureWarning)\n"
    script += "warnings.warn('mine', FutureWarning)\nprint(os.environ['PYTHONWARNINGS'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "mine" in done.stderr
    assert "torch.jit" not in done.stderr
    assert "ignore:torch.meshgrid" in done.stdout


@pytest.mark.parametrize("chosen", [None, "active"])
def test_openmp__waits_without_spinning_unless_the_user_chose_otherwise(chosen):
    """OpenMP itself prints what it read when PyTorch loaded it."""
    code = "from mocodet.common.commands import main; main.main = lambda words: __import__('torch'); main.run()"
    environment = {name: value for name, value in os.environ.items() if name not in OPENMP}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": chosen} if chosen else {})
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "OMP_WAIT_POLICY" not in result.stderr:
        pytest.skip("this OpenMP does not print its settings")
    assert f"OMP_WAIT_POLICY = '{(chosen or 'passive').upper()}'" in result.stderr
