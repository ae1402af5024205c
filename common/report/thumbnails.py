"""Small pictures that stand in the page itself."""

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

QUALITY = 72  # of JPEG


def thumbnail(path: Path, side: int, *, square: bool = False) -> str | None:
    """Return an image of at most ``side`` pixels as base64 of a JPEG; nothing where it cannot be read.

    ``square``: its middle, scaled to ``side`` x ``side``.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded smaller
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    if square:
        small = ImageOps.fit(small, (side, side))
    else:
        small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
