"""Every error in a YAML file is one line, with the file and the line number."""

import re

import pytest
import yaml

from mocodet.common.config import yaml_file
from mocodet.common.config.yaml_file import read_yaml


def test_read_yaml__values_are_those_of_pyyaml_and_lines_those_of_the_file(tmp_path):
    text = "\ufeffA:\n  B: [1, 2.5, x]\n  'C': {D: null, E: '1e-4'}\nF: &f [{G: yes}]\nH: *f\n"
    path = tmp_path / "a.yaml"
    path.write_text(text)
    content, lines = read_yaml(path)
    assert content == yaml.safe_load(text)
    assert lines == {"A": 1, "A.B": 2, "A.C": 3, "A.C.D": 3, "A.C.E": 3, "F": 4, "H": 5}
    path.write_text("# nothing\n")
    assert read_yaml(path) == (None, {})


@pytest.mark.parametrize("number", ["1e-4", "1E5", "-3e+2", "+1_0e1", "2.e3", "1.5e3"])
def test_read_yaml__numbers_with_an_exponent_are_numbers(tmp_path, number):
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {number}\nb: [{number}]\n")
    content, _ = read_yaml(path)
    assert content == {"a": float(number), "b": [float(number)]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb:\n\tc: 2\n", r", line 3: found character '\\t' .*; indent with spaces, not with tabs"),
        ("a: 1\nb: x: 2\n", r", line 2: mapping values are not allowed here; put KEY: VALUE on a separate line, or"),
        ("a:\n  b: 1\n c: 2\n", r", line 3: expected <block end>, .* that begins on line 1; expected KEY: VALUE"),
        ("a: 1\nb 2\nc: 3\n", r", line 3: could not find expected ':'.*; write KEY: VALUE, with a space"),
        ("a: [1,\nb: 2\n", r", line 3: expected ',' or '\]', .*; close the bracket"),
        ("a: 'x\n", r", line 2: found unexpected end of stream, .* quoted scalar that begins on line 1; "),
        ("a: *b\n", r", line 1: found undefined alias 'b'; quote text that begins with \*"),
        (
            "a: 1\nb: !!python/name:os.system x\n",
            r", line 2: could not determine .*; .* remove the tag",
        ),
        ("a: 2026-13-01\n", r", line 1: '2026-13-01' cannot be read as timestamp; put text in quotes"),
        ("a: !!int x\n", r", line 1: 'x' cannot be read as int"),
        ("a: {b: (1,), c: (2,)}\n", r", line 1: inside braces, YAML ends a value at a comma, so use brackets"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", r", line 4: b is already set on line 2; remove one of the two"),
        ("a: &a [*a]\n", r", line 1: contains itself through an alias; remove aliases"),
        ("a: 1\nb: \x07\n", r", line 2: the character #x0007 is not allowed in YAML; remove it"),
        ("a: 1\nb: \xff\n", r", line 2: invalid UTF-8 text; save the file as UTF-8"),
        ("[" * 5000, r": brackets or sections are nested too deeply"),
    ],
)
def test_read_yaml__refuses_in_one_line(tmp_path, text, told):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}{told}") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_read_yaml__is_bounded(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    bomb.write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"bomb\.yaml, line \d+: contains more than 100,000 values with aliases expanded"
    ):
        read_yaml(bomb)
    monkeypatch.setattr(yaml_file, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"bomb\.yaml has \d+ bytes; expected a YAML file of at most 100 bytes$"):
        read_yaml(bomb)
