"""Eight kinds of files that have an image's name but cannot be read as an image."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def png(number: int, side: int = 40) -> bytes:
    """A valid image of noise, different for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encode(Image.fromarray(noise), "PNG")


def encode(image: Image.Image, kind: str) -> bytes:
    written = io.BytesIO()
    image.save(written, kind)
    return written.getvalue()


def huge() -> bytes:
    """The header of a PNG of 100,000 by 100,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (head, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def corrupt() -> bytes:
    """A PNG with a flipped byte in a chunk of pixels."""
    data = bytearray(png(99))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


JPEG = encode(Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(40, 40, 3)), "JPEG")

# Name, and the function that writes the file.
SORTS: dict[str, Callable[[Path], object]] = {
    "truncated.jpg": lambda path: path.write_bytes(JPEG[: len(JPEG) // 2]),
    "empty.png": lambda path: path.write_bytes(b""),
    "text.jpg": lambda path: path.write_text("no image"),
    "page.jpg": lambda path: path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "archive.jpg": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)),  # a wrong suffix
    "pipe.jpg": os.mkfifo,
    "huge.png": lambda path: path.write_bytes(huge()),
    "corrupt.png": lambda path: path.write_bytes(corrupt()),
}


def write_damaged(folder: Path) -> list[str]:
    """Write a file of each kind; return their names, sorted."""
    for name, write in SORTS.items():
        write(folder / name)
    return sorted(SORTS)
