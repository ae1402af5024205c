import json

import pytest

from mocodet.pretrain.data.exclusion import read_names

ENTRIES = [{"file": "a/1.png", "reason": "damaged"}, {"file": "[2019] b.png"}]
SKIPPED = {"root": "images", "images": 9, "skipped": ENTRIES}


@pytest.mark.parametrize(
    "text",
    [
        "a/1.png\n[2019] b.png\n",
        "[2019] b.png\r\na/1.png\r\n",
        "\n".join(map(json.dumps, ENTRIES)),
        json.dumps(ENTRIES),
        json.dumps(ENTRIES, indent=2),
        json.dumps(SKIPPED),
        json.dumps(SKIPPED, indent=2),
        json.dumps(SKIPPED, indent=2).replace("\n", "\r\n"),
    ],
)
def test_read_names__in_every_form(text, tmp_path):
    (tmp_path / "list").write_bytes(text.encode())
    assert sorted(read_names(tmp_path / "list", "images")) == ["[2019] b.png", "a/1.png"]


def test_read_names__of_one_object(tmp_path):
    (tmp_path / "list").write_text(json.dumps(ENTRIES[0]))
    assert read_names(tmp_path / "list", "images") == ["a/1.png"]


@pytest.mark.parametrize("text", [json.dumps(ENTRIES)[:-9], json.dumps(SKIPPED, indent=2)[:-9], '{"path": "a"}', "[1]"])
def test_read_names__damaged(text, tmp_path):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=r"list is not a list of files \(.*\); expected one path per line, or the"):
        read_names(tmp_path / "list", "images")
