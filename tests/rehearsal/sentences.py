"""``python -m tests.rehearsal.sentences OUTPUT --others FOLDER ...``: selects sentences for a blind judge of the prose.

The seed selects equal numbers of sentences from the pages, docstrings and messages of this project and of others.
``OUTPUT/sheet.md`` lists all of them shuffled, with project names and code replaced. A judge who sees nothing else
writes ``OUTPUT/scores.json``: a list of integers from 1 (a stranger stumbles) to 5 (reads like very good technical
documentation), one per sentence. The same command then prints the means and a permutation test.
"""

import argparse
import ast
import json
import random
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import permutation_test

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = ("common", "configs", "detection", "pretrain", "tools")  # the folders with code; pages are in all folders
KINDS = ("page", "docstring", "message")
WORDS = range(6, 41)  # number of words in a selected sentence
LEFT_OUT = re.compile(r"/(?:tests?|docs/report|docs/lab/records|projects|\.\w+|build)/|/licen[sc]e", re.IGNORECASE)
NAMES = re.compile(r"mocodet|lightly(?:-?\s?(?:ssl|train|studio))?|detectron2|densepose", re.IGNORECASE)
CALLS = {"warn", "warning", "error", "info", "add_argument", "append", "Finding"}


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of plain text that have a suitable length and consist mostly of words."""
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text)):
        if re.match(r"\s*(?:[|>#<.\-*=~+:!\[]|\d+\.\s|\w+:\s*$)", paragraph) or "::" in paragraph:
            continue
        for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z`\"*\[])", " ".join(paragraph.split())):
            yield from whole(sentence)


def whole(sentence: str) -> Iterator[str]:
    """Yield a sentence without its markup and names, unless the text is not a sentence."""
    plain = re.sub(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?", r"\1", sentence)
    plain = re.sub(r":\w+:`~?([^`<]+?)(?:\s*<[^>]*>)?`_*", r"\1", plain)
    plain = re.sub(r"``?([^`]+)``?_*", "CODE", plain)
    plain = NAMES.sub("the library", re.sub(r"\*\*?|https?:\S+|<[^>]+>", "", plain)).strip(" -")
    if len(plain.split()) in WORDS and re.match(r"[A-Z].*[.?!]$", plain) and plain.count("CODE") < 4:
        yield plain


def of_page(path: Path) -> Iterator[str]:
    """Yield the sentences of a page in Markdown or reStructuredText, without its code."""
    text = re.sub(r"^ *```.*?^ *```", "\n", path.read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL | re.M)
    yield from sentences(re.sub(r"^\.\. .*(?:\n[ \t]+.*)*", "\n", text, flags=re.M))


def of_docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the sentences of docstrings before the first section (Args, Returns ...)."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            yield from sentences(re.split(r"\n\s*\w+:\n", text)[0])


def of_messages(tree: ast.Module) -> Iterator[str]:
    """Yield user-facing texts: exceptions, warnings, log lines and option help, with X for each filled-in value."""
    for node in ast.walk(tree):
        calls = [node.exc] if isinstance(node, ast.Raise) else [node] if _speaks(node) else []
        for call in calls:
            arguments = [*call.args, *(word.value for word in call.keywords)] if isinstance(call, ast.Call) else []
            for text in filter(None, map(_literal, arguments)):
                said = " ".join(text.split())
                yield from whole(said[:1].upper() + said[1:].rstrip(".") + ".")


def _speaks(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in CALLS


def _literal(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _literal(node.left) + (_literal(node.right) if isinstance(node.op, ast.Add) else "")
    return _literal(node.func.value) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def gather(root: Path, rooms: Sequence[str] = ("",)) -> dict[str, list[str]]:
    """Return the sentences of each kind in a project's sources, in a fixed order and without repetition.

    Args:
        root: the root of the sources.
        rooms: the folders with code.
    """
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    pages = [path for suffix in (".md", ".rst") for path in sorted(root.rglob(f"*{suffix}"))]
    for page in pages:
        if not LEFT_OUT.search(f"/{page.relative_to(root)}"):
            found["page"] += of_page(page)
    for path in (path for room in rooms for path in sorted((root / room).rglob("*.py"))):
        if not LEFT_OUT.search(f"/{path.relative_to(root)}"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found["docstring"] += of_docstrings(tree)
            found["message"] += of_messages(tree)
    return {kind: list(dict.fromkeys(texts)) for kind, texts in found.items()}


def draw(projects: Sequence[dict[str, list[str]]], number: int, rng: random.Random) -> list[tuple[str, str]]:
    """Select (kind, sentence) pairs, distributed as evenly as possible over kinds and projects."""
    turns = [(kind, project[kind]) for kind in KINDS for project in projects]
    counts = [number // len(turns) + (place < number % len(turns)) for place in range(len(turns))]
    return [(kind, text) for (kind, texts), n in zip(turns, counts, strict=True) for text in rng.sample(texts, n)]


def compare(key: Sequence[dict[str, str]], scores: Sequence[int]) -> str:
    """Compare the scores of two groups of sentences.

    Raises:
        ValueError: the number of scores is wrong, or a score is not between 1 and 5.
    """
    if len(scores) != len(key) or not set(scores) <= set(range(1, 6)):
        raise ValueError(f"scores.json must contain {len(key)} integers from 1 to 5, found {scores}")
    groups = {who: [n for one, n in zip(key, scores, strict=True) if one["who"] == who] for who in ("own", "others")}
    own, others = (np.array(groups[who], dtype=float) for who in ("own", "others"))
    p = permutation_test((own, others), lambda a, b: a.mean() - b.mean(), n_resamples=9999, rng=0).pvalue
    rows = [f"{who}: {np.mean(n):.2f} ± {np.std(n, ddof=1):.2f}, {min(n)} to {max(n)}" for who, n in groups.items()]
    return "\n".join([*rows, f"difference {own.mean() - others.mean():+.2f}, p = {p:.2f} (permutation test)"])


def main() -> None:
    """Write the sheet, or compare the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument(
        "--others", type=Path, nargs="+", metavar="FOLDER", help="folders with the sources of other projects"
    )
    parser.add_argument(
        "--number", type=int, default=30, metavar="N", help="number of sentences from each side (default: 30)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the selection (default: 0)")
    args = parser.parse_args()
    scores, key = args.output / "scores.json", args.output / "key.json"
    if scores.exists():
        print(compare(json.loads(key.read_text()), json.loads(scores.read_text())))
        return
    rng = random.Random(args.seed)
    sides = {"own": [gather(REPOSITORY, OWN)], "others": [gather(folder) for folder in args.others or ()]}
    drawn = [(who, *one) for who, projects in sides.items() for one in draw(projects, args.number, rng)]
    rng.shuffle(drawn)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = [{"who": who, "kind": kind, "text": text} for who, kind, text in drawn]
    key.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    sheet = "\n\n".join(f"{n}. ({row['kind']}) {row['text']}" for n, row in enumerate(rows, 1))
    (args.output / "sheet.md").write_text(sheet + "\n")


if __name__ == "__main__":
    main()
