"""Turns of phrase that stop a reader are refused in pages, help texts, messages, docstrings and comments."""

import re
from collections.abc import Iterator

import pytest

from tests.pages import PAGES, ROOT

# What was said, and how a technical writer says it.
REFUSED = {
    r"(?<!here )(?-i:is|are|was|were) (?-i:none)(?= of|[,;.)]| that)": "is not one, there is none",
    r"(?<!here )is no (?:text|image|file|folder|number)\b": "is not a ...",
    r"twins?\b(?<!Barlow Twins)": "variants",
    r"\w+er so\b": "which makes it ...er",
    r"never ends well": "incomplete results are errors",
    r"rather \w+ than unlucky": "name the consequence",
    r"ended from outside": "was killed",
    r"the path works": "it tests the pipeline",
    r"to look changes": "evaluation changes no weights",
    r"looked well": "looked good",
    r"(?:do|does) not care|(?:look|looks) after": "ignores, updates",
    r"takes also": "also takes",
    r"steps that have been taken": "completed steps",
    r"tells? how": "reports how",
    r"go(?:es)? on (?:where|from)|taken up|takes? up (?:a|the) (?:run|checkpoint)": "resumes from, cannot be loaded",
    r"have no image's extension": "are not images (by extension)",
    r"(?:make|makes|made|write|begin|start|starts|computed) anew": "recompute, rewrite, start again",
    r"(?:fetched|put there|placed) by hand": "manually",
    r"of its own (?:process|stream|generator|seed)|an? (?:process|stream|generator|seed) of its own": "its own process",
    r"what (?:came|became|comes) of": "the outcome",
    r"if nobody did": "unless someone killed it",
    r"so many (?:tell|of the|stay|would)|with so many the": "the number that ...",
    r"off the list": "from the list",
    r"one (?:image|name|object|class|row|file) a line": "one ... per line",
}
TABLE_OF_TOPICS = re.compile(r"^\| *to *\| *read *\|", flags=re.IGNORECASE | re.MULTILINE)
WIDTH = 120
TEXTS = PAGES | {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for room in ("common", "configs", "detection", "pretrain", "tools")
    for suffix in (".py", ".yaml")
    for path in sorted((ROOT / room).rglob(f"*{suffix}"))
}
TEXTS |= {name: (ROOT / name).read_text(encoding="utf-8") for name in ("setup.py", "Makefile")}
# Of what was printed and measured at the time.
RECORDS = ("docs/report/", "docs/lab/records/")


def faults(text: str) -> Iterator[str]:
    """Yield each refused phrase of a text, and what to write. Phrases may continue on the next line."""
    flat = re.sub(r"[\"'`]*\s*\n(?:f?[\"'`]|[\s#>])*", " ", text)
    for phrase, better in REFUSED.items():
        yield from (f"{match[0]!r}: {better}" for match in re.finditer(rf"\b(?:{phrase})", flat, flags=re.IGNORECASE))
    yield from ("a table headed 'to | read': Topic | Page" for _ in TABLE_OF_TOPICS.finditer(text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a checkpoint is none of ours",
            "its value is none.",
            "three twins of a config",
            "faster so",
            "it is cheaper so.",
        ),
        *("never ends well with less than was asked", "rather offline than unlucky", "it was ended from outside"),
        *("the path works, not that MoCo does", "To look changes no weight", "it looked well", "norms do not care"),
        *(
            "takes also the steps",
            "the steps that have been taken",
            "tells how they compare",
            "goes on where it stopped",
        ),
        *("have no image's extension and are not used", "goes\n    on from it", '"goes on"\n    f" from it"'),
        "| To | Read |\n|---|---|",
    ],
)
def test_faults__phrases_are_found(text):
    assert list(faults(text))


@pytest.mark.parametrize(
    "text",
    ["Barlow Twins", "if value is None:", "there is none, or there are several", "| To | Run |", "it moreso or so"],
)
def test_faults__plain_english_is_not(text):
    assert not list(faults(text))


@pytest.mark.parametrize("where", TEXTS)
def test_texts__use_plain_english(where):
    if not where.startswith(RECORDS):
        assert not list(faults(TEXTS[where]))


@pytest.mark.parametrize("page", PAGES)
def test_pages__lines_wrap(page):
    outside = re.sub(r"^ *```.*?^ *```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    long = [line for line in outside.splitlines() if len(line) > WIDTH and not re.match(r" *\||.*\]\(|.*https?:", line)]
    assert page.startswith(RECORDS) or not long
