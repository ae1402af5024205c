"""Decoding of image files in any format that Pillow supports to 8-bit RGB, with the same pixels in all of mocodet."""

import errno
import io
import math
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from . import MAX_PIXELS
from .findings import Finding

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

Size = tuple[int, int]  # width, height in pixels

# Formats that Pillow recognises but cannot decode without Ghostscript, Windows or a third-party plugin.
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"})

ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Possible white levels in greyscale with more than 16 bits; white is the first one that no pixel exceeds. Integers are
# never fractions of 1.
WHITES = {"F": (1.0, 255.0, 65_535.0), "I": (255.0, 65_535.0)}

_lock = threading.Lock()
_readers = 0  # number of readers for which Pillow's limit is suspended
_pillows_limit = Image.MAX_IMAGE_PIXELS


class ImageTooLargeError(ValueError):
    """Raised if an image has more pixels than the limit allows."""


# Types of paths that are not regular files. An image path may refer to one, and reading it may block forever.
NO_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@cache
def image_suffixes() -> tuple[str, ...]:
    """Return the lower-case file name suffixes, including the dot, of the formats that Pillow can decode."""
    Image.init()
    formats = Image.registered_extensions().items()
    return tuple(sorted(end for end, kind in formats if kind in Image.OPEN and kind not in NOT_DECODED))


def by(size: Size) -> str:
    """Format an image size, such as ``40 x 30``."""
    return f"{size[0]} x {size[1]}"


def stem_of(file_name: str) -> str:
    """Return a file name without its image suffix: ``site.2021.jpg`` and ``site.2021`` both become ``site.2021``."""
    stem, dot, suffix = file_name.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in image_suffixes() else file_name


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        OSError: the path is a named pipe, a socket, a device or a folder, does not exist, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError("it is a socket, not a file") from error
    if (kind := NO_FILES.get(stat.S_IFMT(os.fstat(descriptor).st_mode))) is not None:
        os.close(descriptor)
        raise OSError(f"it is {kind}, not a file")
    return os.fdopen(descriptor, "rb")


def read_file(path: str | os.PathLike) -> bytes:
    """Return the contents of a file as bytes; see `open_file`."""
    with open_file(path) as handle:
        return handle.read()


def decode_rgb(file: str | os.PathLike | IO[bytes], name: str = "", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image of any mode (8- to 32-bit greyscale, CMYK, palette, with alpha) as 8-bit RGB.

    The image is rotated according to its EXIF orientation, only the first of multiple frames or pages is used, and
    alpha is dropped. Of 16-bit greyscale pixels, the upper byte is kept. 32-bit greyscale, integer or floating point,
    does not define a white level, so white is the first of 1, 255 and 65,535 that no pixel exceeds. If a pixel exceeds
    all of them or is negative, the smallest value becomes black and the largest white. NaN pixels become black.

    Args:
        file: a path, or an open file.
        name: the image's name in messages, if ``file`` is not a path.
        max_pixels: maximum number of pixels; 0 means no limit. Larger images are not decoded at all.

    Raises:
        ImageTooLargeError: the image is too large; the message names it and the key that raises the limit.
        ValueError: the image cannot be decoded; the message names it.
    """
    try:
        with _without_pillows_limit(), _opened(file) as handle, Image.open(handle) as image:
            pixels = math.prod(image.size)
            if max_pixels and pixels > max_pixels:
                raise ImageTooLargeError(too_large(name or file, pixels, max_pixels))
            rgb = _to_rgb(image)
            turn = TURNS.get(_orientation(image))  # read after loading, which already rotates a TIFF
    except (MemoryError, ImageTooLargeError):
        raise
    except Exception as error:  # decoders raise almost any exception for damaged data
        raise ValueError(unreadable(name or file, error)) from error
    return rgb if turn is None else rgb.transpose(turn)


def decode_pixels(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the bytes of an image file to an H x W x 3 uint8 RGB array with the same pixels as from `decode_rgb`.

    If simplejpeg is installed, it decodes ordinary JPEGs to exactly the same pixels as Pillow, but faster. Pillow
    decodes all other files, including JPEGs in which simplejpeg finds an error.

    Args:
        data: contents of the file.
        name: the image's name in messages.
        max_pixels: see `decode_rgb`.

    Returns:
        the pixels; the array may be read-only.

    Raises:
        ValueError: see `decode_rgb`.
    """
    pixels = None if simplejpeg is None else _decode_jpeg(data, max_pixels)
    return np.asarray(decode_rgb(io.BytesIO(data), name, max_pixels)) if pixels is None else pixels


def image_size(file: str | os.PathLike | IO[bytes], name: str = "") -> Size:
    """Return an image's width and height in pixels, as rotated by `decode_rgb`, without decoding the pixels.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, or its header is damaged.
    """
    try:
        with _without_pillows_limit(), _opened(file) as handle, Image.open(handle) as image:
            # Pillow already reports the rotated size of a TIFF.
            turned = image.format != "TIFF" and _orientation(image) >= 5
            return image.size[::-1] if turned else image.size
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:
        raise ValueError(unreadable(name or file, error)) from error


def unreadable(name: object, error: Exception) -> str:
    """Return an error message for an image that cannot be read, including the reason."""
    reason = "unrecognised format" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
    return f"{name} cannot be read as an image ({' '.join(reason.split())}); replace or remove it"


def reason_of(path: object, error: OSError | ValueError) -> str:
    """Return why an image cannot be read and what to do about it, without the image's name."""
    told = unreadable(path, error) if isinstance(error, OSError) else str(error)
    return told.removeprefix(f"{path} ")


def too_large(name: object, pixels: int, limit: int) -> str:
    """Return an error message for an image with more than ``limit`` pixels, including the key that sets the limit."""
    return (
        f"{name} has {pixels:,} pixels, more than the limit of {limit:,}; if the image is valid, set DATA.MAX_PIXELS"
        f" (pre-training), INPUT.MAX_PIXELS (detection) or --max-pixels (other commands) to {pixels}; otherwise"
        " remove it"
    )


def size_fault(image: Path, found: Size, said: Size, said_by: str) -> Finding:
    """Return the error for an image whose size differs from the size given elsewhere, such as in its annotation."""
    remedy = "check whether one of the two belongs to another image"
    if found == said[::-1]:
        remedy = f"if the boxes ignore the EXIF orientation, remove it from the image; otherwise {remedy}"
    return Finding("error", image, "", f"is {by(found)}, but should be {by(said)} according to {said_by}", remedy)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Suspend Pillow's process-wide size limit; the caller checks the size against its own limit."""
    global _readers, _pillows_limit
    with _lock:
        if not _readers:
            _pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                Image.MAX_IMAGE_PIXELS = _pillows_limit


def _opened(file: str | os.PathLike | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return open_file(file) if isinstance(file, (str, os.PathLike)) else nullcontext(file)


def _to_rgb(image: Image.Image) -> Image.Image:
    # 16-bit greyscale is mode I in some formats and some versions of Pillow.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow would clip 16-bit greyscale to 255 on conversion, so keep the upper byte instead.
        image = image.convert("I").point(lambda grey: grey / 256).convert("L")
    elif image.mode in WHITES:
        image = Image.fromarray(_scaled(np.asarray(image, dtype=np.float64), WHITES[image.mode]))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _scaled(grey: np.ndarray, whites: tuple[float, ...]) -> np.ndarray:
    """Scale an H x W float64 array to uint8; see `decode_rgb`."""
    known = np.isfinite(grey)
    if not known.any():
        raise ValueError("none of its pixels has a finite value")
    least, most = grey[known].min(), grey[known].max()
    white = next((white for white in whites if most <= white), None)
    if least < 0 or white is None:
        grey, white = grey - least, max(most - least, np.finfo(np.float64).tiny)
    return np.rint(np.where(known, grey, 0) / white * 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # the pixels may be valid even if the EXIF data is damaged
        return 1


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """Decode an unrotated greyscale or three-colour JPEG of at most ``max_pixels``; return None for any other data.

    OpenCV is not an option here, because it returns a partly decoded image for a damaged file without an error.
    """
    if not data.startswith(b"\xff\xd8") or _may_be_turned(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("Gray", "YCbCr", "RGB") or height * width > (max_pixels or math.inf):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None


def _may_be_turned(data: bytes) -> bool:
    """Return whether a JPEG may have an EXIF or XMP orientation."""
    if b"Exif\0\0" not in data and b"tiff:Orientation" not in data:
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _orientation(image) in TURNS
    except Exception:
        return True
