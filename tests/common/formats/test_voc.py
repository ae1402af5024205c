import codecs
import re

import pytest

from mocodet.common.formats.findings import Finding
from mocodet.common.formats.voc import VocObject, read_annotation

OBJECT = "<object><name>{}</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
SIZE = "<size><width>40</width><height>30</height></size>"


def written(tmp_path, content: str, encoding: str = "utf-8", mark: bytes = b""):
    path = tmp_path / "a.xml"
    path.write_bytes(mark + content.encode(encoding))
    return path


def errors(findings: tuple[Finding, ...]) -> list[str]:
    return [str(finding) for finding in findings if finding.severity == "error"]


@pytest.mark.parametrize(
    ("encoding", "declared", "mark", "name"),
    [
        ("utf-8", "", b"", "猫"),
        ("utf-8", "UTF-8", codecs.BOM_UTF8, "猫"),
        ("utf-8", "GB2312", codecs.BOM_UTF8, "猫"),  # the mark is right
        ("utf-8", "utf-16", b"", "猫"),  # of programs that write what they hold as UTF-16
        ("gb2312", "GB2312", b"", "猫"),
        ("gbk", "gb2312", b"", "貓"),  # which GB2312 does not have
        ("big5", "big5", b"", "貓"),
        ("shift_jis", "Shift_JIS", b"", "ネコ"),
        ("euc_kr", "euc-kr", b"", "고양이"),
        ("utf-16-le", "utf-16", codecs.BOM_UTF16_LE, "猫"),
        ("utf-16-be", "utf-16", b"", "猫"),
        ("latin-1", "ISO-8859-1", b"", "chaîne"),
        ("cp1251", "windows-1251", b"", "кошка"),
    ],
)
def test_read_annotation__encodings(encoding, declared, mark, name, tmp_path):
    first = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    path = written(tmp_path, f"{first}<annotation>{SIZE}{OBJECT.format(name)}</annotation>", encoding, mark)
    found = read_annotation(path)
    assert errors(found.findings) == []
    assert found.objects == (VocObject(name, (2, 3, 9, 8)),)


@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        ('<?xml version="1.0" encoding="x-mystery"?><annotation/>', "utf-8", "declares the encoding 'x-mystery'"),
        ('<?xml version="1.0" encoding="hex"?><annotation/>', "utf-8", "declares the encoding 'hex'"),
        ("<annotation>é</annotation>", "latin-1", "is not utf-8 text"),
        ("<annotation>", "utf-8", "is not XML"),
        ("", "utf-8", "is not XML"),
        ("<annotations/>", "utf-8", "has the root element <annotations> instead of VOC's <annotation>"),
    ],
)
def test_read_annotation__what_cannot_be_read_is_one_line(content, encoding, words, tmp_path):
    path = written(tmp_path, content, encoding)
    (line,) = errors(read_annotation(path).findings)
    assert line.startswith(f"{path}: {words}")
    assert "\n" not in line


def test_read_annotation__of_other_tools(tmp_path):
    body = OBJECT.format("\n  traffic \t light ").replace("<xmin>2", "<xmin> 2.25 ").replace("</object>", "{}</object>")
    flags = {"": False, "<difficult>1</difficult>": True, "<difficult> True </difficult>": True}
    flags |= {"<difficult>0.0</difficult>": False, "<difficult/>": False, "<truncated>?</truncated>": False}
    path = written(tmp_path, f'\n<annotation xmlns="urn:x">{SIZE}{"".join(map(body.format, flags))}</annotation>')
    found = read_annotation(path)
    assert found.findings == ()
    assert found.objects == tuple(VocObject("traffic light", (2.25, 3, 9, 8), hard) for hard in flags.values())


@pytest.mark.parametrize("rename", [str.upper, str.title])
def test_read_annotation__tags_in_upper_case(rename, tmp_path):
    body = f"<annotation><filename>b.png</filename>{SIZE}{OBJECT.format('Cat')}</annotation>"
    found = read_annotation(written(tmp_path, re.sub(r"</?\w+>", lambda tag: rename(tag[0]), body)))
    assert found.findings == ()
    assert found.objects == (VocObject("Cat", (2, 3, 9, 8)),)
    assert (found.count, found.filename, found.size) == (1, "b.png", (40, 30))


def test_read_annotation__every_object_is_read_or_reported(tmp_path):
    good = OBJECT.format("cat")
    faults = {
        good.replace("cat", " "): "object 1 has no <name>",
        good.replace("<xmax>9</xmax>", ""): "object 2 (cat) lacks a <bndbox>",
        good.replace(">9<", ">nan<"): "object 3 (cat) has the box 2, 3, nan, 8, which is not finite",
        good.replace(">9<", ">1<"): "object 4 (cat) has the box 2, 3, 1, 8, which is empty",
        good.replace(">9<", ">0<"): "object 5 (cat) has the box 2, 3, 0, 8, which is inside out",
        good.replace(">9<", ">99<").replace(">2<", ">50<"): "object 6 (cat) has the box 50, 3, 99, 8, which is outside",
        good.replace("<bndbox>", "<bndbox/><bndbox>"): "object 7 (cat) has more than one <bndbox>",
        good.replace("<name>", "<difficult>2</difficult><name>"): "object 8 (cat) has <difficult> '2'",
        f"<group>{good}</group>": "has 1 <object> elements that are not direct children of <annotation>",
    }
    found = read_annotation(written(tmp_path, f"<annotation>{SIZE}{''.join(faults)}{good * 2}</annotation>"))
    lines = errors(found.findings)
    assert len(found.objects) == 2
    assert found.count == len(faults) + 2
    for words in faults.values():
        assert any(words in line for line in lines), words
    assert len(lines) == len(faults)


@pytest.mark.parametrize("size", ["", SIZE.replace("40", "0"), SIZE.replace("30", "-1"), SIZE.replace("40", "4e99")])
def test_read_annotation__a_size_that_is_none_is_the_images(size, tmp_path):
    path = written(tmp_path, f"<annotation><filename>b.png</filename>{size}</annotation>")
    found = read_annotation(path, {"b.png": (7, 5)}.get)
    assert (found.size, found.says_size) == ((7, 5), False)
    (repaired,) = found.findings
    assert repaired.severity == "repaired"
    assert read_annotation(path).size is None
    said = read_annotation(written(tmp_path, f"<annotation>{SIZE.replace('40', ' 40.0 ')}</annotation>"))
    assert (said.size, said.says_size, said.findings) == ((40, 30), True, ())
