import io

import numpy as np
import pytest
from PIL import Image

from mocodet.pretrain.data import decoding
from mocodet.pretrain.data.decoding import decode_pixels, decode_rgb, is_ordinary_jpeg


@pytest.fixture(params=["OpenCV", "simplejpeg"], autouse=True)
def decoder(request, monkeypatch) -> str:
    """Let JPEGs be decoded by one of the two."""
    if request.param == "OpenCV":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


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
def test_decode_pixels__of_an_ordinary_jpeg_are_pillows(photograph, mode, how):
    data = encode(photograph.convert(mode), **how)
    assert is_ordinary_jpeg(data)
    assert is_ordinary_jpeg(data + b"\0" * 8)
    reference = np.asarray(decode_rgb(io.BytesIO(data)))
    assert np.array_equal(decode_pixels(data, "a"), reference)
    assert np.array_equal(decode_pixels(data + b"\0" * 8, "a"), reference)


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("I;16", "PNG")])
def test_decode_pixels__of_others_are_left_to_pillow(photograph, mode, kind):
    image = Image.fromarray(np.full((9, 7), 40000, dtype=np.uint16)) if mode == "I;16" else photograph.convert(mode)
    data = encode(image, kind)
    assert not is_ordinary_jpeg(data)
    assert np.array_equal(decode_pixels(data, "a"), np.asarray(decode_rgb(io.BytesIO(data))))


def test_decode_pixels__of_a_damaged_file_are_refused_as_by_pillow(photograph, monkeypatch):
    data = encode(photograph)
    scan = data.index(b"\xff\xda")
    for damaged in (data[:-40], data[: scan + 20], data[: scan - 4], data[:3], b"", b"GIF89a", b"\xff\xd8" * 20):
        assert not is_ordinary_jpeg(damaged)
        with pytest.raises(ValueError, match=r"^some/file\.jpg cannot be read as an image"):
            decode_pixels(damaged, "some/file.jpg")
    # Inside of a scan there may be anything; a decoder that gives up leaves the verdict to Pillow.
    broken = data[: scan - 100] + b"\0" * 90 + data[scan - 10 :]
    try:
        expected = np.asarray(decode_rgb(io.BytesIO(broken), "a"))
    except ValueError:
        with pytest.raises(ValueError, match=r"^a cannot be read"):
            decode_pixels(broken, "a")
    else:
        assert np.array_equal(decode_pixels(broken, "a"), expected)


def test_decode_pixels__of_a_suspicious_size_are_left_to_pillow(photograph, monkeypatch):
    data = encode(photograph)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 47 // 2 - 1)
    assert not is_ordinary_jpeg(data)
    with pytest.raises(ValueError, match=r"a cannot be read as an image .*decompression bomb"):
        decode_pixels(data, "a")
