"""From the bytes of a file to an 8-bit RGB image."""

import io
import math
import os
from abc import ABC, abstractmethod
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


class Images(Protocol):
    """Images by what a sampler draws, as RGB of 8 bits."""

    def __getitem__(self, item: Any) -> Image.Image:
        """Return an image as Pillow has it."""

    def pixels(self, item: Any) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8; it may be read only."""


class EncodedImages(Dataset[Image.Image], ABC):
    """Images that are decoded when they are asked for.

    Raises:
        ValueError: one cannot be read or decoded; the message names it. It is not skipped: an epoch has every image.
    """

    @abstractmethod
    def encoded(self, item: Any) -> tuple[str, bytes]:
        """Return what messages call an image, and the bytes of its file."""

    def __getitem__(self, item: Any) -> Image.Image:
        name, data = self.encoded(item)
        return decode_rgb(io.BytesIO(data), name)

    def pixels(self, item: Any) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8."""
        name, data = self.encoded(item)
        return decode_pixels(data, name)


def decode_rgb(file: str | os.PathLike | IO[bytes], name: str = "") -> Image.Image:
    """Read an image of any mode (grey of 8 or 16 bits, CMYK, palette, with alpha) as 8-bit RGB.

    Args:
        file: path, or an open file.
        name: its name in messages, if ``file`` is not a path.

    Raises:
        ValueError: it cannot be decoded; the message names it. It is not skipped: an epoch has every image.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                # Pillow clips 16-bit grey to 255 on conversion; keep the upper byte instead.
                image = image.convert("I").point(lambda grey: grey / 256).convert("L")
            elif image.mode in ("I", "F"):
                raise ValueError(f"mode {image.mode}: 32 bits a pixel, of which nothing says what is white")
            elif image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise ValueError(unreadable(name or file, error)) from error


def unreadable(name: object, error: Exception) -> str:
    """Return the message about an image that cannot be read, and why."""
    reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
    return f"{name} cannot be read as an image ({reason}); replace or remove it"


def decode_pixels(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of an image file to H x W x 3, uint8, RGB: the pixels that `decode_rgb` gives.

    An ordinary JPEG is decoded to the same bytes as by Pillow, in less time, where simplejpeg is installed. All else is
    left to Pillow, and so is the verdict on a JPEG in which simplejpeg finds any fault.

    Args:
        data: the file's.
        name: what messages call it.

    Raises:
        ValueError: see `decode_rgb`.
    """
    pixels = None if simplejpeg is None else _decode_jpeg(data)
    return np.asarray(decode_rgb(io.BytesIO(data), name)) if pixels is None else pixels


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG of no more pixels than Pillow takes without a warning, grey or of three colours; else return None.

    OpenCV does not serve here: of a damaged file it returns a partly decoded image and reports no error.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("Gray", "YCbCr", "RGB") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
