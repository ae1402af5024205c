from pathlib import Path

import pytest

from mocodet.common.formats.near_file import NearFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.jpg", "train/two cats.JPG", "caf\u00e9.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("file_name", "meant"),
    [
        ("images/1.jpg", "1.jpg"),
        ("/home/someone/1.jpg", "1.jpg"),
        ("../images/1.jpg", "1.jpg"),
        ("C:\\data\\train\\two cats.JPG", "train/two cats.JPG"),
        ("train\\two cats.JPG", "train/two cats.JPG"),
        ("train/two%20cats.JPG", "train/two cats.JPG"),
        ("train/Two Cats.jpg", "train/two cats.JPG"),
        ("1.png", "1.jpg"),
        ("1", "1.jpg"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("images/caf%C3%A9.PNG", "caf\u00e9.png"),
        ("2.jpg", None),
        ("two cats.JPG", None),  # other folders than those that the name contains are not searched
        ("train", None),
        ("notes.jpg", None),
        (".", None),
        ("a\n\ud800%00.jpg", None),
        ("x" * 5000, None),
    ],
)
def test_near_files__forms_of_a_name(file_name, meant, folder):
    assert NearFiles(folder).find(file_name) == (meant and folder / meant)


def test_near_files__a_listed_image_is_not_meant(folder):
    assert NearFiles(folder, {folder / "1.jpg"}).find("1.png") is None
    (folder / "1.gif").write_bytes(b"")
    assert NearFiles(folder, {folder / "1.jpg"}).find("1.png") == folder / "1.gif"


def test_near_files__folder_that_there_is_not(tmp_path):
    assert NearFiles(tmp_path / "nowhere").find("1.jpg") is None
