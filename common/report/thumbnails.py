"""Thumbnails for embedding in the page."""

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps

from mocodet.common.formats.image import decode_rgb

QUALITY = 72  # JPEG quality


def thumbnail(
    path: Path, side: int, *, square: bool = False, box: tuple[int, int, int, int] | None = None
) -> str | None:
    """Return an image of at most ``side`` pixels as a base64-encoded JPEG, or None if the file cannot be read.

    With ``square``, the centre of the image is cropped and scaled to ``side`` x ``side``. With ``box``, the image is
    first cropped to (left, top, right, bottom).
    """
    try:
        small = decode_rgb(path, max_pixels=0)
    except ValueError:
        return None
    if box is not None:
        small = small.crop(box)
    if square:
        small = ImageOps.fit(small, (side, side))
    else:
        small.thumbnail((side, side))
    return as_jpeg(small, QUALITY)


def as_jpeg(picture: Image.Image, quality: int) -> str:
    """Return an image as a base64-encoded JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
