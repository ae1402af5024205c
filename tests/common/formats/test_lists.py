import pytest

from mocodet.common.formats.lists import NamedFiles, read_list

KNOWN = {"a", "site.2021", "my photo 1", "sub/b", "c 1"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("a", "a"),
        ("  a \t", "a"),
        ("a -1", "a"),
        ("a  1", "a"),
        ("c 1", "c 1"),  # a name, as there is one
        ("a.JPG", "a"),
        ("JPEGImages/a.jpg", "a"),
        ("C:\\data\\a.png", "a"),
        ("JPEGImages/a.jpg Annotations/a.xml", "a"),
        ("site.2021", "site.2021"),
        ("site.2021.tif 0", "site.2021"),
        ("my photo 1", "my photo 1"),
        ("my photo 1.png", "my photo 1"),
        ("sub/b", "sub/b"),
        ("absent", "absent"),
        ("absent 1", "absent"),
    ],
)
@pytest.mark.parametrize("form", ["utf-8", "utf-8-sig", "utf-16"])
def test_read_list__lines_of_many_tools(line, name, form, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(f"\r\n{line}\r\n".encode(form))
    names, findings = read_list(path, KNOWN.__contains__)
    assert names == [name]
    assert {finding.severity for finding in findings} <= {"note"}


def test_read_list__faults(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("a\na.jpg site.2021.jpg\na\n")
    names, (error, repaired) = read_list(path, KNOWN.__contains__)
    assert names == ["a"]
    assert str(error) == f"{path}: must contain one image name per line; found 'a.jpg site.2021.jpg'; correct the line"
    assert str(repaired) == f"{path}: a is listed more than once; used only once"
    for content, words in ((b"\n", "lists no images"), ("é".encode("latin-1"), "is not UTF-8 text")):
        path.write_bytes(content)
        names, (error,) = read_list(path, KNOWN.__contains__)
        assert (names, error.severity) == ([], "error")
        assert words in error.what
    with pytest.raises(FileNotFoundError):
        read_list(tmp_path / "test.txt", KNOWN.__contains__)


def test_named_files(tmp_path):
    (tmp_path / "town").mkdir()
    for name in ("a.JPG", "a.png", "b.c.jpg", ".d.jpg", "e.txt", "town/f.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "g.jpg").mkdir()
    files = NamedFiles(tmp_path, (".jpg", ".png"))
    assert files.names() == {"a", "b.c"}
    assert files.find("a") == [tmp_path / "a.JPG", tmp_path / "a.png"]
    assert files.find("town/f") == [tmp_path / "town/f.jpg"]
    assert files.find("e") == files.find("nowhere/a") == files.find("\0/a") == files.find("..") == []
    assert NamedFiles(tmp_path / "nowhere", (".jpg",)).names() == set()


def test_named_files__nested(tmp_path):
    (tmp_path / "town/old").mkdir(parents=True)
    (tmp_path / "town/.hidden").mkdir()
    for name in ("a.jpg", "town/b.jpg", "town/old/c.jpg", "town/old/d.txt", "town/.hidden/e.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "town/old/loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "town")
    files = NamedFiles(tmp_path, (".jpg",), nested=True)
    assert files.names() == {"a", "town/b", "town/old/c"}
    assert files.find("town/old/c") == [tmp_path / "town/old/c.jpg"]
    assert NamedFiles(tmp_path, (".jpg",)).names() == {"a"}
    assert NamedFiles(tmp_path / "nowhere", (".jpg",), nested=True).names() == set()
