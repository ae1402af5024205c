"""The selection of sentences from sources, and the comparison of their scores."""

import json
import random
import sys

import pytest

from tests.rehearsal import sentences as module

PAGE = """# A heading that is not a sentence but has words.

The **queue** holds keys of [many batches](queue.md), and `CODE` reads all of them. Too short.

| A table is not prose. | It has no sentences at all, as it were. |

```
A fenced block is code and not prose, too.
```

.. note::
   A directive of reStructuredText is left out with its text.
"""
SOURCE = '''"""Averages the weights of several encoders into one.

Args:
    paths: This line of the arguments is not a sentence that is drawn.
"""
parser.add_argument("--a", help="files of the encoders, in any order")
raise ValueError(f"found {n} encoders, " f"expected two or more of them")
'''


def test_gather__pages_docstrings_and_messages(tmp_path):
    (tmp_path / "docs/report").mkdir(parents=True)
    (tmp_path / "docs/a.md").write_text(PAGE)
    (tmp_path / "docs/report/b.md").write_text("This page of a report has been printed by the product itself.")
    (tmp_path / "a.py").write_text(SOURCE)
    assert module.gather(tmp_path) == {
        "page": ["The queue holds keys of many batches, and CODE reads all of them."],
        "docstring": ["Averages the weights of several encoders into one."],
        "message": ["Found X encoders, expected two or more of them.", "Files of the encoders, in any order."],
    }


def test_draw__as_many_of_each_kind_and_project():
    projects = [{kind: [f"{kind} {who} {n}" for n in range(9)] for kind in module.KINDS} for who in "ab"]
    drawn = module.draw(projects, 12, random.Random(0))
    assert len(set(drawn)) == 12
    assert all(sum(text.startswith(f"{kind} {who}") for _, text in drawn) == 2 for kind in module.KINDS for who in "ab")
    assert drawn == module.draw(projects, 12, random.Random(0))


def test_compare():
    key = [{"who": who} for who in ["own", "others"] * 10]
    assert "difference +0.00, p = 1.00" in module.compare(key, [4, 4] * 10)
    assert "difference +3.00, p = 0.00" in module.compare(key, [5, 2] * 10)
    with pytest.raises(ValueError, match=r"must contain 20 integers from 1 to 5, found \[6\]"):
        module.compare(key, [6])


def test_main__the_sheet_does_not_say_whose_they_are(tmp_path, monkeypatch, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README.md").write_text("detectron2 is the library of the other side here.")
    monkeypatch.setattr(
        module, "gather", lambda root, rooms=("",): {k: [f"A {k} of {root.name}."] for k in module.KINDS}
    )
    words = ["sentences", str(tmp_path / "out"), "--others", str(tmp_path / "other"), "--number", "3"]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    key = json.loads((tmp_path / "out/key.json").read_text())
    assert [one["who"] for one in key].count("own") == 3
    assert [line.split(") ", 1)[1] for line in (tmp_path / "out/sheet.md").read_text().splitlines()[::2]] == [
        one["text"] for one in key
    ]
    (tmp_path / "out/scores.json").write_text(json.dumps([3] * 6))
    module.main()
    assert "own: 3.00" in capsys.readouterr().out
