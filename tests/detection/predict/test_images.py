from pathlib import Path

import pytest
from detectron2.data import transforms as T
from PIL import Image

from mocodet.detection.predict.images import ImageFile, find_images, read_images
from mocodet.detection.predict.predictor import Preparation


@pytest.mark.parametrize(
    "words",
    [
        ["photos", "../more"],
        ["photos/../photos", "../more/b.png"],
        ["../here/photos/a.png", "../more"],
        ["photos", "../here/photos", "../more", "photos/../../more"],
    ],
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


def test_read_images__an_image_that_cannot_be_resized_is_skipped(tmp_path):
    files = []
    for name, size in (("line.png", (3000, 1)), ("good.png", (30, 20))):
        Image.new("RGB", size).save(tmp_path / name)
        files.append(ImageFile(tmp_path / name, name))
    prepare = Preparation(T.AugmentationList([T.ResizeShortestEdge(800, 1333)]), "BGR")
    line, good = read_images(files, prepare, max_pixels=0, workers=0, keep_pixels=False)
    assert line.inputs is None
    assert line.fault.startswith(f"{tmp_path / 'line.png'} (3000 x 1 pixels) cannot be resized: ")
    assert good.inputs["image"].shape[1:] == (800, 1200)
