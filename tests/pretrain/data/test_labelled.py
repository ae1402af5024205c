import json

import pytest
import torch
from PIL import Image

from mocodet.pretrain.data.folders import warn_of_passed_over
from mocodet.pretrain.data.labelled import check_same_classes, open_labelled, read_class_folders


def save(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(("dog/1.png", "cat/deep/er/2.png", "cat/3.png", "ant/4.png", "cat-fish/5.png")):
        save(tmp_path / name, (number, 0, 0))
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_read_class_folders__each_image_has_the_class_of_its_first_folder(root):
    found = read_class_folders(root)
    assert found.classes == ["ant", "cat", "cat-fish", "dog"]
    assert found.labels.dtype == torch.int64
    pairs = zip(found.images, found.labels, strict=True)
    colours = {image.getpixel((0, 0))[0]: found.classes[label] for image, label in pairs}
    assert colours == {0: "dog", 1: "cat", 2: "cat", 3: "ant", 4: "cat-fish"}


def test_read_class_folders__image_beside_the_classes(root):
    save(root / "loose.png", "red")
    with pytest.raises(ValueError, match=r"1 images of .* are not in a class folder: loose\.png"):
        read_class_folders(root)


def test_read_class_folders__empty_class(root):
    (root / "bee").mkdir()
    (root / "bee" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"1 class folders of .* contain no images: bee"):
        read_class_folders(root)


def test_read_class_folders__missing_or_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="one subfolder for each class"):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="contains no images"):
        read_class_folders(tmp_path)


def test_open_labelled__folder_or_annotations(root):
    assert open_labelled(root).classes == read_class_folders(root).classes
    annotations = root / "val.json"
    content = {
        "images": [{"id": 7, "file_name": "dog/1.png"}],
        "annotations": [{"image_id": 7, "category_id": 2}],
        "categories": [{"id": 1, "name": "felis"}, {"id": 2, "name": "canis"}],
    }
    annotations.write_text(json.dumps(content))
    found = open_labelled(root, annotations)
    assert found.classes == ["felis", "canis"]
    assert found.labels.tolist() == [1]


def test_warn_of_passed_over__one_line_where_there_is_something_to_say(root, caplog):
    warn_of_passed_over(read_class_folders(root).images, "images")
    assert not caplog.records
    for name in ("dog/notes.txt", "cat/deep/film.mp4"):
        (root / name).write_text("")
    found = read_class_folders(root)
    assert found.images.passed_over == 2
    warn_of_passed_over(found.images, "images")
    assert [record.getMessage() for record in caplog.records] == [
        "2 files in images are not images (by extension); ignored; if some of them are photographs,"
        " for example in HEIC format, convert these to JPEG"
    ]


def test_check_same_classes__names_the_difference():
    check_same_classes(["a", "b"], ["a", "b"])
    with pytest.raises(ValueError, match=r"3 for training, 2 for validation.*a \(training only\), d \(training only\)"):
        check_same_classes(["a", "b", "d"], ["b", "c"])
    with pytest.raises(ValueError, match=r"c \(validation only\)"):
        check_same_classes(["a", "b", "d"], ["b", "c"])
    with pytest.raises(ValueError, match="class 1 is 'b' in training but 'c' in validation"):
        check_same_classes(["a", "b", "c"], ["a", "c", "b"])
