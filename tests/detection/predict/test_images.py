from pathlib import Path

import pytest
from PIL import Image

from mocodet.detection.predict.images import find_images


@pytest.mark.parametrize(
    "words", [["photos", "../more"], ["photos/../photos", "../more/b.png"], ["../here/photos/a.png", "../more"]]
)
def test_find_images__names_stay_below_the_common_folder(words, tmp_path, monkeypatch):
    for name in ("here/photos/a.png", "more/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    root, files = find_images(words, Path("predictions"))
    assert root == tmp_path
    assert [file.name for file in files] == ["here/photos/a.png", "more/b.png"]
    assert all(file.path.samefile(tmp_path / file.name) for file in files)
