"""What pages, help texts, messages, docstrings and comments name exists: files, headings, commands, options, keys."""

import argparse
import ast
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import get_cfg as detectron2_cfg
from torch.distributed.run import get_args_parser as torchrun_parser

from mocodet import configs
from mocodet.common.commands.main import overview, parser_of
from mocodet.common.commands.table import COMMANDS, PROGRAM
from mocodet.detection import add_moco_config
from mocodet.pretrain.config import get_cfg as pretrain_cfg
from tests.pages import FENCE, PAGES, PROSE, ROOT, anchors

ROOMS = ("common", "configs", "detection", "docs", "pretrain", "requirements", "tests", "tools")
CODE = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for room in ("common", "configs", "detection", "pretrain", "tools")
    for suffix in (".py", ".yaml")
    for path in sorted((ROOT / room).rglob(f"*{suffix}"))
}

# Of other programs: sbatch, tar, pip, nvidia-smi, DINO's scripts.
FOREIGN_OPTIONS = {
    "--require-hashes",
    *("--requeue", "--dereference", "--hard-dereference", "--no-build-isolation", "--no-deps"),
    *("--query-gpu", "--format", "--checkpoint_key"),
}
# Of other projects, an example of a name, a file that a study writes, and the site's first page.
FOREIGN_FILES = {
    "detection/convert-pretrain-to-detectron2.py",
    "tools/extract_backbone_weights.py",
    "pretrain/x.yaml",
    "report.md",
    "index.md",
}

PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})/[\w./-]*\w")
PAGE = re.compile(r"(?<![\w./…-])[\w/-]+\.md\b")
KEY = re.compile(r"(?<![\w./$-])[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+(?![\w/-])(?!\.\w)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
HEADING = re.compile(r"(README|[\w/]+\.md),? \"([^\"]+)\"")
NOWHERE = re.compile(r"recipes(?:\.md)?,? section|first sketch", flags=re.IGNORECASE)


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the option strings of a parser and of the commands within it."""
    within = [action.choices.values() for action in parser._actions if isinstance(action.choices, dict)]
    return set(parser._option_string_actions).union(*(options(choice) for choices in within for choice in choices))


def keys(cfg: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Yield the keys of a config and of its sections."""
    for name, value in cfg.items():
        yield f"{within}{name}"
        if isinstance(value, Mapping):
            yield from keys(value, f"{within}{name}.")


PARSERS = [torchrun_parser(), overview(), *map(parser_of, COMMANDS)]
SCRIPTS = [
    path.read_text(encoding="utf-8") for folder in ("tools", "tests/rehearsal") for path in (ROOT / folder).glob("*.py")
]
KNOWN_OPTIONS = FOREIGN_OPTIONS.union(
    *map(options, PARSERS), *(re.findall(r"\"(--[a-z][\w-]*)\"", script) for script in SCRIPTS)
)
DETECTION = detectron2_cfg()
add_moco_config(DETECTION)
KNOWN_KEYS = {*keys(DETECTION), *keys(pretrain_cfg())}


def is_there(name: str, beside: Path = ROOT) -> bool:
    """Say whether there is such a file or folder; a config may be named within configs/, and without its suffix."""
    return name in FOREIGN_FILES or any(
        (place / f"{name}{end}").exists() for place in (ROOT, configs.ROOT, beside) for end in ("", ".yaml")
    )


def faults(where: str, text: str) -> Iterator[str]:
    """Yield the names in a text, ``where`` being its file, of what is not there."""
    code = text if where in CODE else " ".join(f"`{span}`" for span in re.findall(r"`([^`]+)`", FENCE.sub("", text)))
    known = {"COMMAND", *(command.name for command in COMMANDS)}
    # In messages two spaces or a backtick stand before a command.
    named = re.findall(rf"(?:`|  |'){PROGRAM} ([a-z][\w-]*|[A-Z]+)(?= |`|'|\.)", code)
    yield from (f"{PROGRAM} {name}" for name in named if name not in known)
    yield from (option for option in OPTION.findall(code) if option not in KNOWN_OPTIONS)
    yield from (key for key in KEY.findall(text) if key not in KNOWN_KEYS)
    yield from (name for name in PATH.findall(text) if not is_there(name))
    yield from (name for name in PAGE.findall(text) if not is_there(name, (ROOT / where).parent))
    for page, heading in HEADING.findall(text):
        titles = re.findall(r"^#+ (.+)$|\*\*(.+?)\.\*\*", PAGES.get(f"{page.removesuffix('.md')}.md", ""), flags=re.M)
        if heading not in [title for pair in titles for title in pair]:
            yield f'{page}, "{heading}"'
    yield from NOWHERE.findall(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("as `mocodet learn` does", "mocodet learn"),
        ("give `--no-such-flag`", "--no-such-flag"),
        ("set SOLVER.MAX_ITERS", "SOLVER.MAX_ITERS"),
        ("see docs/none.md", "docs/none.md"),
        ("as pretrain/methods/mocov9.py", "pretrain/methods/mocov9.py"),
        ('(README, "Bring your own weights")', 'README, "Bring your own weights"'),
        ("(recipes section 2)", "recipes section"),
    ],
)
@pytest.mark.parametrize("where", ["README.md", "common/errors.py"])
def test_faults__names_of_nowhere_are_found(where, text, named):
    assert named in list(faults(where, text))
    assert not list(faults(where, "`mocodet train --eval-only` of docs/api.md, SOLVER.MAX_ITER, configs/studies/"))


@pytest.mark.parametrize("page", PAGES)
def test_pages__names_in_them_exist(page):
    assert not sorted(set(faults(page, PAGES[page])))


def test_code__names_in_its_texts_exist():
    assert not [(where, name) for where, text in CODE.items() for name in faults(where, text)]


@pytest.mark.parametrize("page", PAGES)
def test_pages__configs_they_name_exist(page):
    known = {path.stem for path in configs.ROOT.rglob("*.yaml")}
    named = set(re.findall(r"`(?:\w+/)*([\w.]+_R_\d+\w*)(?:\.yaml)?`", PAGES[page]))
    assert named <= known


def test_tables_of_configs__leave_out_no_recipe():
    tables = PAGES["docs/pretraining.md"] + PAGES["docs/finetuning.md"]
    named = set(re.findall(r"`([\w.]+_R_\d+\w*)`", tables))
    variants = {name + variant for name in named for variant in ("_coco", "_moco", "_random")}
    paths = [path for path in configs.ROOT.rglob("*.yaml") if path.parent.name not in ("classification", "studies")]
    leaves = {path.stem for path in paths if not path.name.startswith(("Base-", "toy_R"))}
    assert leaves <= named | variants


@pytest.mark.parametrize("page", PAGES)
def test_pages__links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PROSE[page]):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_pages__python_names_exist(page):
    named = set(re.findall(rf"\b{PROGRAM}(?:\.[a-zA-Z_]\w*)+", PAGES[page]))
    for kind, block in FENCE.findall(PAGES[page]):
        if kind == "python":
            imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
            named |= {f"{node.module}:{alias.name}" for node in imports for alias in node.names}
    for name in sorted(named):
        pkgutil.resolve_name(name)
