"""What the README and the pages of docs/ show must work as it stands there."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mocodet import configs
from mocodet.common.launch import merge_config
from mocodet.detection import add_moco_config
from mocodet.pretrain.config import get_cfg as pretrain_cfg

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def detection_cfg():
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_moco_config(cfg)
    return cfg


def commands() -> list[tuple[str, str]]:
    """List (page, command) for every command of tools/ in a fenced block; those with an ellipsis are no commands."""
    tool = re.compile(r"tools/\w+\.py|(?:torchrun|srun|python\S*) .*\btools/\w+\.py")
    found = []
    for page, text in PAGES.items():
        for _, block in FENCE.findall(text):
            found += [(page, line) for line in block.replace("\\\n", " ").splitlines() if tool.match(line)]
    return [(page, line) for page, line in found if "…" not in line and "..." not in line]


class ParsedError(Exception):
    """A tool has parsed its command line; the argument is what came of it."""


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Run the tool of a command, with its own parser, as far as the arguments are parsed.

    Raises:
        SystemExit: the parser refused them.
    """
    words = shlex.split(command.removesuffix("&"), comments=True)
    place = next(number for number, word in enumerate(words) if word.startswith("tools/"))
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: object) -> None:
        raise ParsedError(parse_args(parser, *arguments))

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.chdir(ROOT)
        patch.setenv("PYTHONWARNINGS", "ignore")  # the installed commands change it
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", words[place:])
        with pytest.raises(ParsedError) as parsed:
            runpy.run_path(str(ROOT / words[place]), run_name="__main__")
    return parsed.value.args[0]


def test_commands__are_found_and_can_fail(monkeypatch, capsys):
    tools = {re.search(r"tools/(\w+)\.py", command)[1] for _, command in commands()}
    assert {"pretrain_net", "train_net", "study", "linear_eval", "count_costs", "make_shards"} <= tools
    assert any(command.startswith("srun") for _, command in commands())
    with pytest.raises(SystemExit):
        parse("torchrun --standalone tools/knn_eval.py a.pth --train a --val b --no-such-flag", monkeypatch)
    assert "unrecognized arguments: --no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands__the_tool_takes_it(page, command, monkeypatch):
    args = parse(command, monkeypatch)
    given = [(args.config_file, args.opts)] if "config_file" in args and "opts" in args else []
    if "init" in args:
        given = [(str(init.config_file), [*init.opts, *args.opts]) for _, init in args.init]
    monkeypatch.chdir(ROOT)
    for file, opts in given:
        if file.startswith("output/"):  # a run leaves it there
            continue
        assert (ROOT / file).is_file(), f"{page} names {file}"
        if "$" not in command:
            cfg = pretrain_cfg() if Path(file).parent.name in ("pretrain", "classification") else detection_cfg()
            merge_config(cfg, file, opts)
        assert not [word for word in opts if word.startswith("--")], "flags after KEY VALUE are not seen as such"


@pytest.mark.parametrize("page", PAGES)
def test_pages__configs_they_name_exist(page):
    known = {path.stem for path in configs.ROOT.rglob("*.yaml")}
    named = set(re.findall(r"`([\w.]+_R_\d+\w*)`", PAGES[page]))
    assert named <= known
    if page == "README.md":  # its tables leave out no recipe
        twins = {name + twin for name in named for twin in ("_moco", "_random")}
        paths = [path for path in configs.ROOT.rglob("*.yaml") if path.parent.name != "classification"]
        leaves = {path.stem for path in paths if not path.name.startswith(("Base-", "toy_R"))}
        assert leaves <= named | twins


@pytest.mark.parametrize("page", PAGES)
def test_pages__links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            text = FENCE.sub("", path.read_text(encoding="utf-8"))
            titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
            # As GitHub makes them.
            assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("block", [block for kind, block in FENCE.findall(README) if kind == "yaml"])
def test_readme__yaml_blocks_are_configs(block, tmp_path):
    for name in re.findall(r"_BASE_: (\S+)", block):
        block = block.replace(name, str(configs.path(name)))
    file = tmp_path / "mine.yaml"
    file.write_text(block)
    detection_cfg().merge_from_file(str(file))


@pytest.mark.parametrize("page", PAGES)
def test_pages__files_they_name_exist(page):
    named = set(re.findall(r"(?<![\w./])(?:tools|configs|docs|pretrain|requirements)/[\w./-]+\.\w+", PAGES[page]))
    assert named or page != "README.md"
    assert not [name for name in named if not (ROOT / name).is_file()]


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
