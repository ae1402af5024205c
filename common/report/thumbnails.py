"""Small pictures embedded in the page."""

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps

from mocodet.common.formats.image import decode_rgb

QUALITY = 72  # of JPEG


def thumbnail(
    path: Path, side: int, *, square: bool = False, box: tuple[int, int, int, int] | None = None
) -> str | None:
    """Return an image of at most ``side`` pixels as base64 of a JPEG; empty if it cannot be read.

    ``square``: its middle, scaled to ``side`` x ``side``. ``box``: only the part within left, top, right, bottom.
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
    """Return a picture as base64 of a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
