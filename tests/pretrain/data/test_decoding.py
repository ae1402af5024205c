import io

import numpy as np
import pytest
from PIL import Image

from mocodet.pretrain.data import decoding
from mocodet.pretrain.data.decoding import decode_pixels, decode_rgb


@pytest.fixture(params=[True, False], ids=["simplejpeg", "Pillow"], autouse=True)
def installed(request, monkeypatch) -> bool:
    """Let simplejpeg be installed, or not."""
    if request.param:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(decoding, "simplejpeg", None)
    return request.param


@pytest.fixture
def left_to_pillow(monkeypatch) -> list:
    """Return a list of the names of images that Pillow decodes."""
    names = []

    def record(file, name):
        names.append(name)
        return decode_rgb(file, name)

    monkeypatch.setattr(decoding, "decode_rgb", record)
    return names


@pytest.fixture
def photograph() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((61, 47), Image.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6  # orientation: turn it by a right angle


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"keep_rgb": True, "subsampling": 0}),
        ("RGB", {"exif": EXIF}),
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


def test_decode_pixels__of_a_suspicious_size_are_left_to_pillow(photograph, monkeypatch):
    data = encode(photograph)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 47 // 2 - 1)
    with pytest.raises(ValueError, match=r"a cannot be read as an image .*decompression bomb"):
        decode_pixels(data, "a")
