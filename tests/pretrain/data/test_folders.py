import pytest
from PIL import Image

from mocodet.pretrain.data.folders import ImageFolder


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def test_image_folder__any_depth_sorted_and_without_other_files(tmp_path):
    image = Image.new("RGB", (4, 4))
    expected = [save(tmp_path / name, image) for name in ("a.jpg", "b/c.PNG", "b/d/e/f.jpeg", "y.GIF", "z.webp")]
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    save(tmp_path / ".hidden.png", image)
    found = ImageFolder(tmp_path)
    assert found.paths == [str(path) for path in expected]
    assert found[3].mode == "RGB"


def test_image_folder__missing_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="contains no images"):
        ImageFolder(tmp_path)


def test_image_folder__links_are_followed_once_and_other_files_counted(tmp_path):
    save(tmp_path / "a" / "x.png", Image.new("RGB", (4, 4)))
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    save(tmp_path / ".cache" / "thumbnail.png", Image.new("RGB", (4, 4)))
    found = ImageFolder(tmp_path)
    assert [path.rsplit("/", 1)[1] for path in found.paths] == ["x.png"]
    assert found.passed_over == 1
