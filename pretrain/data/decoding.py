"""From the bytes of a file to an 8-bit RGB image."""

import io
import os
from abc import ABC, abstractmethod
from typing import IO, Any, Protocol

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# Of a JPEG's markers: those that begin a frame (baseline, progressive and others, not the tables), and a scan.
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
SCAN = 0xDA
END = b"\xff\xd9"


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
        name: what messages call it, where it is no path.

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
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(unreadable(name or file, reason)) from error


def unreadable(name: object, reason: object) -> str:
    """Return the message about an image that cannot be read."""
    return f"{name} cannot be read as an image ({reason}); replace or remove it"


def decode_pixels(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of an image file to H x W x 3, uint8, RGB: the pixels that `decode_rgb` gives.

    An ordinary JPEG is decoded to the same bytes as by Pillow, in less time. All else is left to Pillow, and so is the
    verdict on a JPEG that cannot be decoded.

    Args:
        data: the file's.
        name: what messages call it.

    Raises:
        ValueError: see `decode_rgb`.
    """
    pixels = decode_jpeg(data) if is_ordinary_jpeg(data) else None
    return np.asarray(decode_rgb(io.BytesIO(data), name)) if pixels is None else pixels


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG, by simplejpeg where it is installed and by OpenCV elsewhere; return None if that fails."""
    if simplejpeg is None:
        how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), how)
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None


def is_ordinary_jpeg(data: bytes) -> bool:
    """Say whether the bytes are a JPEG, not cut off, of 8 bits, grey or of three colours, and of no suspicious size."""
    if data[:2] != b"\xff\xd8":
        return False
    place, frame = 2, b""
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a byte that fills up
            place += 1
            continue
        if marker in FRAMES:
            frame = data[place + 4 : place + 10]
        elif marker == SCAN:
            break
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    if len(frame) < 6:
        return False
    bits, height, width, colours = frame[0], frame[1:3], frame[3:5], frame[5]
    pixels = int.from_bytes(height, "big") * int.from_bytes(width, "big")
    # Pillow complains of a file without an end, and of a size that may be meant to fill the memory; OpenCV does not.
    suspicious = pixels == 0 or (Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS)
    return bits == 8 and colours in (1, 3) and not suspicious and data.rfind(END, place) >= 0
