"""docs/paper_to_code.md names files, what they define, and configs that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mocodet import configs

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper_to_code.md").read_text(encoding="utf-8")
ROWS = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", PAGE, flags=re.MULTILINE)]


def defined(body: list[ast.stmt], within: str = "") -> Iterator[str]:
    """Yield the classes, functions, methods and assigned names of a module or class."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield f"{within}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from defined(node.body, f"{node.name}.")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (f"{within}{target.id}" for target in targets if isinstance(target, ast.Name))


def named(cell: str) -> list[tuple[str, str]]:
    """List (file, name) of a cell such as "`a.py`: `one`, `Two.three`; `b.py`: `four`"; a file alone has no name."""
    pairs, file = [], ""
    for span in re.findall(r"`([^`]+)`", cell):
        if span.endswith((".py", "/")):
            file = span
            pairs.append((file, ""))
        else:
            pairs.append((file, span))
    return pairs


CODE = sorted({pair for row in ROWS for pair in named(row[1]) if pair[0].endswith(".py")})


def test_named__reads_what_a_cell_says():
    assert named("`a.py`: `one`, `Two.three`; `b.py`: `four`") == [
        *(("a.py", ""), ("a.py", "one"), ("a.py", "Two.three")),
        *(("b.py", ""), ("b.py", "four")),
    ]
    assert {"A", "A.f", "B", "g"} == set(defined(ast.parse("class A:\n def f(self): ...\nB = 1\ndef g(): ...").body))
    assert len(CODE) > 60


@pytest.mark.parametrize(("file", "name"), CODE)
def test_code__defines_what_the_table_names(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert not name or name in defined(tree.body), f"{file} does not define {name}"


def test_configs__all_are_there():
    files = set(re.findall(r"[\w/.]+\.yaml", PAGE))
    assert len(files) >= 8
    assert not [name for name in files if not configs.path(name).is_file()]


@pytest.mark.parametrize(
    "part",
    [
        *(f"equation {number}" for number in (1, 2)),
        *(f"table {number}" for number in (1, 2, 3, 4, 5, 6)),
        *("Figure 1", "figure 2a", "figure 2b", "figure 2c", "figure 3", "algorithm 1"),
        *(f"Section {number}," for number in ("3.1", "3.2", "3.3", "4", "4.1", "4.2", "4.2.1", "4.2.2", "4.2.3")),
    ],
)
def test_paper__each_part_has_a_row(part):
    assert any(part in row[0] for row in ROWS)
