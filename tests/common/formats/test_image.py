import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats import image as reader
from mocodet.common.formats.image import (
    ImageTooLargeError,
    decode_pixels,
    decode_rgb,
    image_size,
    image_suffixes,
    read_file,
    stem_of,
)


@pytest.fixture(params=[True, False], ids=["simplejpeg", "Pillow"], autouse=True)
def installed(request, monkeypatch) -> bool:
    """Let simplejpeg be installed, or not."""
    if request.param:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(reader, "simplejpeg", None)
    return request.param


@pytest.fixture
def left_to_pillow(monkeypatch) -> list:
    """Return a list of the names of images that Pillow decodes."""
    names = []

    def record(file, name, max_pixels):
        names.append(name)
        return decode_rgb(file, name, max_pixels)

    monkeypatch.setattr(reader, "decode_rgb", record)
    return names


@pytest.fixture
def photograph() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((61, 47), Image.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"keep_rgb": True, "subsampling": 0}),
        ("RGB", {"exif": exif(1)}),
        ("RGB", {"optimize": True, "restart_marker_rows": 1}),
        ("L", {}),
    ],
)
def test_decode_pixels__of_an_ordinary_jpeg_are_pillows(photograph, mode, how, installed, left_to_pillow):
    data = encode(photograph.convert(mode), **how)
    reference = np.asarray(decode_rgb(io.BytesIO(data)))
    assert np.array_equal(decode_pixels(data, "a"), reference)
    assert left_to_pillow == ([] if installed else ["a"])
    assert np.array_equal(decode_pixels(data + b"\0" * 8, "a"), reference)


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("I;16", "PNG")])
def test_decode_pixels__of_others_are_left_to_pillow(photograph, mode, kind, left_to_pillow):
    image = Image.fromarray(np.full((9, 7), 40000, dtype=np.uint16)) if mode == "I;16" else photograph.convert(mode)
    data = encode(image, kind)
    assert np.array_equal(decode_pixels(data, "a"), np.asarray(decode_rgb(io.BytesIO(data))))
    assert left_to_pillow == ["a"]


def test_decode_pixels__of_a_damaged_file_are_refused_as_by_pillow(photograph):
    data = encode(photograph)
    scan = data.index(b"\xff\xda")
    for damaged in (data[:-40], data[: scan + 20], data[: scan - 4], data[:3], b"", b"GIF89a", b"\xff\xd8" * 20):
        with pytest.raises(ValueError, match=r"^some/file\.jpg cannot be read as an image"):
            decode_pixels(damaged, "some/file.jpg")


def test_decode_pixels__of_any_damage_have_pillows_verdict(photograph):
    data, rng = bytearray(encode(photograph)), np.random.default_rng(0)
    scan = data.index(b"\xff\xda")
    verdicts = set()
    for number in range(400):
        damaged = data.copy()
        place = int(rng.integers(2 if number % 2 else scan + 12, len(data) - 3))
        damaged[place : place + 2] = b"\xff" + rng.bytes(1)  # now and then a marker where none belongs
        try:
            expected = np.asarray(decode_rgb(io.BytesIO(damaged), "a"))
        except ValueError:
            with pytest.raises(ValueError, match=r"^a cannot be read"):
                decode_pixels(bytes(damaged), "a")
            verdicts.add("refused")
        else:
            assert np.array_equal(decode_pixels(bytes(damaged), "a"), expected)
            verdicts.add("decoded")
    assert verdicts == {"refused", "decoded"}


def save(path, image, **how):
    image.save(path, **how)
    return path


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_decode_pixels__turned_as_detectron2_turns_them(photograph, kind, tmp_path):
    expected = np.asarray(photograph)
    for orientation in range(1, 9):
        path = save(tmp_path / f"a.{kind}", photograph, exif=exif(orientation))
        found = decode_pixels(path.read_bytes(), "a")
        assert image_size(path) == found.shape[1::-1]
        if kind == "tif":  # which detectron2 turns twice, for Pillow turns it as well
            upright = {3: expected[::-1, ::-1], 6: np.rot90(expected, 3), 8: np.rot90(expected)}
            assert np.array_equal(found, upright.get(orientation, found))
        else:
            assert np.array_equal(found, read_image(str(path), "RGB"))


GREY = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
DEEP = {  # the same picture in pixels of more bits
    "sixteen.png": GREY.astype(np.uint16) * 256,
    "sixteen.tif": GREY.astype(np.uint16) * 256,
    "whole_255.tif": GREY.astype(np.int32),
    "whole_65535.tif": GREY.astype(np.int32) * 257,
    "float_1.tif": GREY.astype(np.float32) / 255,
    "float_255.tif": GREY.astype(np.float32),
    "float_65535.tif": GREY.astype(np.float32) * 257,
    "heights.tif": GREY.astype(np.float32) * 7 - 300,
    "counts.tif": GREY.astype(np.int32) * 100_000,
}


@pytest.mark.parametrize("name", DEEP)
def test_decode_rgb__deep_grey_is_scaled(name, tmp_path):
    found = np.asarray(decode_rgb(save(tmp_path / name, Image.fromarray(DEEP[name]))))
    assert np.abs(found.astype(int) - GREY[..., None]).max() <= 1


def test_decode_rgb__grey_that_is_no_number_is_black(tmp_path):
    grey = np.array([[np.nan, 0.5, 1, -np.inf]], np.float32)
    path = save(tmp_path / "a.tif", Image.fromarray(grey))
    assert np.asarray(decode_rgb(path))[0, :, 0].tolist() == [0, 128, 255, 0]
    save(path, Image.fromarray(np.full((2, 2), np.nan, np.float32)))
    with pytest.raises(
        ValueError, match=r"a\.tif cannot be read as an image \(none of its pixels has a finite value\)"
    ):
        decode_rgb(path)


def test_decode_rgb__every_mode_becomes_the_same_rgb(tmp_path):
    grey = Image.fromarray(GREY)
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
        "grey.PGM": grey,
        "first.GIF": grey,
    }
    for name, image in variants.items():
        frames = {"save_all": True, "append_images": [Image.new("L", (8, 8))]} if name == "first.GIF" else {}
        found = decode_rgb(save(tmp_path / name, image, **frames))
        assert found.mode == "RGB", name
        assert np.abs(np.asarray(found).astype(int) - GREY[..., None]).max() <= 1, name
        assert image_size(tmp_path / name) == (8, 8)


def test_image_size__of_what_is_none(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image \(unrecognised format\)"):
        image_size(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError):
        image_size(tmp_path / "b.jpg")


def test_decode__larger_than_pillow_takes(photograph, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 47 // 2 - 1)
    for kind in ("JPEG", "PNG"):
        data = encode(photograph, kind)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))
        expected = "a has 2,867 pixels, more than the limit of 2,866; .* INPUT.MAX_PIXELS .* to 2867"
        with pytest.raises(ImageTooLargeError, match=expected):
            decode_pixels(data, "a", max_pixels=2866)
        assert image_size(io.BytesIO(data)) == (61, 47)
        for limit in (2867, 0):
            assert decode_pixels(data, "a", max_pixels=limit).shape == (47, 61, 3)
    assert Image.MAX_IMAGE_PIXELS == 61 * 47 // 2 - 1


def test_max_pixels__is_pillows_limit():
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_image_suffixes__are_of_what_pillow_decodes():
    assert {".jpg", ".jpeg", ".png", ".gif", ".tif", ".webp", ".bmp", ".jp2", ".tga"} <= set(image_suffixes())
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ".xml"} & set(image_suffixes())
    names = {"a.JPG": "a", "site.2021.01.jpg": "site.2021.01", "site.2021.01": "site.2021.01", "a": "a"}
    assert {name: stem_of(name) for name in names} == names


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device", "folder"])
def test_read__what_is_no_file_is_refused_at_once(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind("a.jpg")
    else:
        {
            "named pipe": os.mkfifo,
            "device": lambda path: Path(path).symlink_to("/dev/zero"),
            "folder": os.mkdir,
        }[kind]("a.jpg")
    for read in (decode_rgb, image_size):
        with pytest.raises(ValueError, match=rf"^a\.jpg cannot be read as an image \(it is a {kind}, not a file\)"):
            read("a.jpg")
    with pytest.raises(OSError, match=rf"^it is a {kind}, not a file$"):
        read_file("a.jpg")
