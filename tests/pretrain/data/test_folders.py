import numpy as np
import pytest
from PIL import Image

from mocodet.pretrain.data.decoding import decode_rgb
from mocodet.pretrain.data.folders import ImageFolder


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def test_image_folder__any_depth_sorted_and_without_other_files(tmp_path):
    image = Image.new("RGB", (4, 4))
    expected = [save(tmp_path / name, image) for name in ("a.jpg", "b/c.PNG", "b/d/e/f.jpeg", "z.webp")]
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    save(tmp_path / ".hidden.png", image)
    found = ImageFolder(tmp_path)
    assert found.paths == [str(path) for path in expected]
    assert found[3].mode == "RGB"


def test_image_folder__missing_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="holds no image"):
        ImageFolder(tmp_path)


def test_decode_rgb__every_mode_becomes_the_same_rgb(tmp_path):
    values = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
    grey = Image.fromarray(values)
    expected = np.stack([values] * 3, axis=-1)
    palette = grey.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    clear = palette.copy()
    clear.info["transparency"] = 3
    variants = {
        "grey.png": grey,
        "rgb.png": grey.convert("RGB"),
        "rgba.png": grey.convert("RGBA"),
        "la.png": grey.convert("LA"),
        "palette.png": palette,
        "clear.png": clear,
        "cmyk.tif": grey.convert("RGB").convert("CMYK"),
        "sixteen.png": Image.fromarray(values.astype(np.uint16) * 256),
    }
    for name, image in variants.items():
        found = decode_rgb(save(tmp_path / name, image))
        assert found.mode == "RGB", name
        assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1, name


def test_image_folder__links_are_followed_once_and_other_files_counted(tmp_path):
    save(tmp_path / "a" / "x.png", Image.new("RGB", (4, 4)))
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    save(tmp_path / ".cache" / "thumbnail.png", Image.new("RGB", (4, 4)))
    found = ImageFolder(tmp_path)
    assert [path.rsplit("/", 1)[1] for path in found.paths] == ["x.png"]
    assert found.passed_over == 1


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_decode_rgb__grey_without_a_white_is_refused(tmp_path, dtype):
    path = save(tmp_path / "deep.tif", Image.fromarray(np.arange(16, dtype=dtype).reshape(4, 4)))
    with pytest.raises(ValueError, match=r"deep\.tif cannot be read as an image \(mode [IF]: 32 bits"):
        decode_rgb(path)


def test_decode_rgb__damaged_file_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as an image"):
        decode_rgb(path)
    path.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as an image"):
        decode_rgb(path)
