"""The commands and configs that the pages and help texts show work as they stand there."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from torch.distributed.run import get_args_parser as torchrun_parser

from mocodet import configs
from mocodet.common.commands.main import parse, parser_of
from mocodet.common.commands.table import COMMANDS, PROGRAM, Command
from mocodet.common.config.merge import merge_config
from mocodet.common.study.run import asked_for
from mocodet.common.study.spec import read_study
from mocodet.detection import add_moco_config
from mocodet.pretrain.config import get_cfg as pretrain_cfg
from tests.pages import FENCE, PAGES, README, ROOT

# What starts a command of mocodet or a file of tools/: variables, a launcher, Python.
COMMANDS_PAGE = PAGES["docs/commands.md"]
LEADING = r"(?:(?:\w+=\S* |(?:srun|torchrun|taskset|nice|python3?)\s).*?)?"
LINE = re.compile(rf"{LEADING}(?:(?:-m )?{PROGRAM} |-m tests\.|tools/\w+\.py)")


def detection_cfg():
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_moco_config(cfg)
    return cfg


def fenced_lines() -> list[tuple[str, str]]:
    """List (page, line) for every line of a fenced block, continued lines joined; those with an ellipsis left out."""
    blocks = [(page, block) for page, text in PAGES.items() for _, block in FENCE.findall(text)]
    lines = [(page, line) for page, block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [(page, line) for page, line in lines if "…" not in line and "..." not in line]


def commands() -> list[tuple[str, str]]:
    """List (page, command) for every command in a fenced block."""
    return [(page, line) for page, line in fenced_lines() if LINE.match(line)]


def examples(command: Command) -> list[str]:
    """List the examples in the help of a command, continued lines joined."""
    help_text = parser_of(command).description.replace("\\\n", " ")
    return re.findall(rf"^  ({PROGRAM} .+)", help_text, flags=re.MULTILINE)


HELP = [(f"{PROGRAM} {command.name} --help", line) for command in COMMANDS for line in examples(command)]


class Parsed(NamedTuple):
    """A command line: what is run (a command of the table, a module or a file), and its parsed arguments."""

    program: Command | str
    args: argparse.Namespace


class ParsedError(Exception):
    """A file has parsed its command line; the argument is what came of it."""


def parse_line(line: str, monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """Parse a command line as its programs would: torchrun's part by torchrun's parser, ours by ours.

    Raises:
        SystemExit: a parser refused it.
    """
    words = shlex.split(re.sub(r"( > \S+)? *&?$", "", line), comments=True)
    start = next(n for n, word in enumerate(words) if re.fullmatch(rf"torchrun|python3?|{PROGRAM}|tools/\w+\.py", word))
    launcher, *rest = words[start:]
    if launcher == "torchrun":
        args = torchrun_parser().parse_args(rest)
        launcher = "python"
        rest = [*(["-m"] if args.module else []), args.training_script, *args.training_script_args]
    if not launcher.startswith("python"):
        rest = [launcher, *rest]
    if launcher == PROGRAM or rest[:2] == ["-m", PROGRAM]:
        name, *rest = rest[1 if launcher == PROGRAM else 2 :]
        known = {command.name: command for command in COMMANDS}
        assert name in known, f"{PROGRAM} {name}: there is no such command"
        return Parsed(known[name], parse(known[name], rest))
    return _parse_as_main(rest, monkeypatch)


def _parse_as_main(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """Run a file, or a module after ``-m``, with its own parser, as far as the arguments are parsed."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: object) -> None:
        raise ParsedError(parse_args(parser, *arguments))

    is_module = words[0] == "-m"
    program, *arguments = words[is_module:]
    run = partial(runpy.run_module, program) if is_module else partial(runpy.run_path, str(ROOT / program))
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(ParsedError) as parsed:
            run(run_name="__main__")
    return Parsed(program, parsed.value.args[0])


def test_commands__are_found():
    shown = [command for _, command in commands()]
    looks_like_one = re.compile(rf"\b{PROGRAM} (?:{'|'.join(command.name for command in COMMANDS)})\b|tools/\w+\.py")
    assert not [line for _, line in fenced_lines() if looks_like_one.search(line) and line not in shown]
    named = {match[1] for command in shown if (match := re.search(rf"\b{PROGRAM} ([\w-]+)", command))}
    assert named == {command.name for command in COMMANDS}, "a command without an example"
    assert any(command.startswith("torchrun ") for command in shown)
    assert any(command.startswith("srun ") for command in shown)
    assert any("python tools/" in command for command in shown)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mocodet knn a.pth --train a --val b --no-such-flag", "unrecognized arguments: --no-such-flag"),
        ("torchrun --standalone -m mocodet knn a.pth --train a", "the following arguments are required: --val"),
        ("srun torchrun --no-such-flag -m mocodet pretrain --config-file a", "unrecognized arguments: --no-such-flag"),
        ("python tools/plot.py metrics --key loss", "the following arguments are required"),
        ("mocodet train --config-file coco_R_50_C4_1x.yaml --eval-only --scale-to-gpus", "cannot be combined with"),
    ],
)
def test_commands__wrong_ones_are_refused(line, message, monkeypatch, capsys):
    assert LINE.match(line)
    with pytest.raises(SystemExit):
        parse_line(line, monkeypatch)
    assert message in capsys.readouterr().err


def test_commands__unknown_ones_are_refused(monkeypatch):
    with pytest.raises(AssertionError, match="mocodet learn: there is no such command"):
        parse_line("python -m mocodet learn", monkeypatch)


def written(page: str) -> dict[str, str]:
    """Return the files that a page tells its reader to write, such as "`mine.yaml`:", by their names."""
    if page not in PAGES:  # help, which shows no config
        return {"mine.yaml": "OUTPUT_DIR: output/mine\n"}
    return dict(re.findall(r"`([\w-]+\.yaml)`:\n\n```yaml\n(.*?)```", PAGES[page], flags=re.DOTALL))


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_help__has_two_examples_or_more(command):
    assert sum(f"{PROGRAM} {command.name}" in line for line in examples(command)) >= 2


@pytest.mark.parametrize(("page", "command"), commands() + HELP)
def test_commands__the_parser_takes_it(page, command, monkeypatch, tmp_path):
    files = written(page)
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path if files else ROOT)
    locate = configs.locate  # what is under output/, a run leaves there
    monkeypatch.setattr(configs, "locate", lambda name: Path(name) if name.startswith("output/") else locate(name))
    program, args = parse_line(command, monkeypatch)
    given = [(args.config_file, args.opts)] if getattr(args, "config_file", None) and "opts" in args else []
    if "init" in args:
        given = [(file, [*opts, *args.opts]) for _, file, opts in args.init]
        if args.study and not args.study.startswith("output/"):
            read_study(args.study)
        elif args.init:
            asked_for(args)  # refuses keys that a study sets itself
    for file, opts in given:
        assert not [word for word in opts if word.startswith("--")], "flags after KEY VALUE are not seen as such"
        assert file.startswith("output/") or configs.locate(file).is_file(), f"{page} names {file}"
        if "$" not in command and not file.startswith("output/"):
            merge_config(pretrain_cfg() if ".pretrain." in program.does else detection_cfg(), file, opts)


def test_tools__are_the_commands_that_their_page_says(monkeypatch, capsys):
    said = re.search(
        rf"as `tools/(\w+)\.py`, `tools/(\w+)\.py`\sand\s`tools/(\w+)\.py`: `{PROGRAM} (\w+)`, `{PROGRAM} (\w+)`"
        rf"\sand `{PROGRAM} (\w+)`",
        COMMANDS_PAGE,
    ).groups()
    monkeypatch.setenv("PYTHONWARNINGS", "")  # a command adds to it, for processes that it starts
    for tool, command in zip(said[:3], said[3:], strict=True):
        monkeypatch.setattr(sys, "argv", [f"{tool}.py", "--help"])
        with warnings.catch_warnings(), pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
        assert capsys.readouterr().out.startswith(f"usage: {PROGRAM} {command} ")


def test_commands__their_page_has_the_table():
    rows = re.findall(rf"^\| `{PROGRAM} ([\w-]+)` \| (.+) \|$", COMMANDS_PAGE, flags=re.MULTILINE)
    assert rows == [(command.name, command.help) for command in COMMANDS]


@pytest.mark.parametrize(
    "block",
    [text for page in (README, PAGES["docs/finetuning.md"]) for kind, text in FENCE.findall(page) if kind == "yaml"],
)
def test_yaml_blocks__are_configs(block, tmp_path):
    for name in re.findall(r"_BASE_: (\S+)", block):
        block = block.replace(name, str(configs.path(name)))
    file = tmp_path / "mine.yaml"
    file.write_text(block)
    detection_cfg().merge_from_file(str(file))


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("requeued", [False, True])
def test_multi_node__slurm_knows_how_the_run_ended(tmp_path, requeued, status):
    (script,) = [block for kind, block in FENCE.findall(PAGES["docs/multi_node.md"]) if kind == "bash"]
    signal = "kill -USR1 $PPID; sleep 0.3; " if requeued else ""
    for name, content in {"srun": f"{signal}exit {status}", "scontrol": f'echo "$@" >> {tmp_path}/called'}.items():
        file = tmp_path / name
        file.write_text(f"#!/bin/bash\n{content}\n")
        file.chmod(0o700)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["/bin/bash", "-c", script], env=environment, check=False, timeout=60).returncode == status
    assert ("requeue 7" in (tmp_path / "called").read_text().splitlines()) == requeued
