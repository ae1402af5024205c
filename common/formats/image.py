"""Image files of any format that Pillow reads, as 8-bit RGB; all parts of mocodet get the same pixels."""

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

# Formats that Pillow recognises but does not decode itself (Ghostscript, Windows, users' plugins).
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

# White in grey of more than 16 bits: the first of these that no pixel exceeds. Whole numbers are not fractions of 1.
WHITES = {"F": (1.0, 255.0, 65_535.0), "I": (255.0, 65_535.0)}

_lock = threading.Lock()
_readers = 0  # readers for which Pillow's limit is lifted
_pillows_limit = Image.MAX_IMAGE_PIXELS


class ImageTooLargeError(ValueError):
    """An image has more pixels than may be decoded."""


# Kinds of paths that are not files, although an image's name may lead there; reading one may block for ever.
NO_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@cache
def image_suffixes() -> tuple[str, ...]:
    """Return the file name suffixes, with dot and in lower case, of the formats that Pillow decodes."""
    Image.init()
    formats = Image.registered_extensions().items()
    return tuple(sorted(end for end, kind in formats if kind in Image.OPEN and kind not in NOT_DECODED))


def by(size: Size) -> str:
    """Format the size of an image: ``40 x 30``."""
    return f"{size[0]} x {size[1]}"


def stem_of(file_name: str) -> str:
    """Return a file's name without its image suffix: ``site.2021.jpg`` and ``site.2021`` are both ``site.2021``."""
    stem, dot, suffix = file_name.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in image_suffixes() else file_name


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """Open a file for reading; refuse what is not a file.

    Raises:
        OSError: it is a named pipe, a socket, a device or a folder, does not exist, or cannot be read.
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
    """Return the bytes of a file; see `open_file`."""
    with open_file(path) as handle:
        return handle.read()


def decode_rgb(file: str | os.PathLike | IO[bytes], name: str = "", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image of any mode (grey of 8 to 32 bits, CMYK, palette, with alpha) as 8-bit RGB.

    The image is rotated by its EXIF orientation. Of several frames or pages the first is used. Of 16-bit grey the upper
    byte is kept. Grey of 32 bits, whole numbers or not, does not define white: it is 1, 255 or 65,535, the first that
    no pixel exceeds. If a pixel exceeds all of them or is negative, the smallest becomes black and the largest white.
    nan is black. Alpha is dropped.

    Args:
        file: path, or an open file.
        name: its name in messages, if ``file`` is not a path.
        max_pixels: the largest image; 0: any size. A larger one is not decoded at all.

    Raises:
        ImageTooLargeError: it is too large; the message names it and the key that lifts the limit.
        ValueError: it cannot be decoded; the message names it.
    """
    try:
        with _without_pillows_limit(), _opened(file) as handle, Image.open(handle) as image:
            pixels = math.prod(image.size)
            if max_pixels and pixels > max_pixels:
                raise ImageTooLargeError(too_large(name or file, pixels, max_pixels))
            rgb = _to_rgb(image)
            turn = TURNS.get(_orientation(image))  # after loading the pixels, when Pillow itself has rotated a TIFF
    except (MemoryError, ImageTooLargeError):
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise ValueError(unreadable(name or file, error)) from error
    return rgb if turn is None else rgb.transpose(turn)


def decode_pixels(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the bytes of an image file to H x W x 3, uint8, RGB: the pixels that `decode_rgb` gives.

    If simplejpeg is installed, it decodes ordinary JPEGs to the same bytes as Pillow, in less time. Pillow decodes
    everything else, including a JPEG in which simplejpeg finds a fault.

    Args:
        data: content of the file.
        name: its name in messages.
        max_pixels: see `decode_rgb`.

    Returns:
        the pixels, perhaps in a read-only array.

    Raises:
        ValueError: see `decode_rgb`.
    """
    pixels = None if simplejpeg is None else _decode_jpeg(data, max_pixels)
    return np.asarray(decode_rgb(io.BytesIO(data), name, max_pixels)) if pixels is None else pixels


def image_size(file: str | os.PathLike | IO[bytes], name: str = "") -> Size:
    """Read width and height in pixels of an image, as rotated by `decode_rgb`, without decoding it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, or its header is damaged.
    """
    try:
        with _without_pillows_limit(), _opened(file) as handle, Image.open(handle) as image:
            # Pillow gives the size of a TIFF after rotation.
            turned = image.format != "TIFF" and _orientation(image) >= 5
            return image.size[::-1] if turned else image.size
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:
        raise ValueError(unreadable(name or file, error)) from error


def unreadable(name: object, error: Exception) -> str:
    """Return the message for an image that cannot be read, with the reason."""
    reason = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
    return f"{name} cannot be read as an image ({' '.join(reason.split())}); replace or remove it"


def reason_of(path: object, error: OSError | ValueError) -> str:
    """Return why an image cannot be read, and what to do, without its name."""
    told = unreadable(path, error) if isinstance(error, OSError) else str(error)
    return told.removeprefix(f"{path} ")


def too_large(name: object, pixels: int, limit: int) -> str:
    """Return the message for an image of more ``pixels`` than the ``limit``, with the key that lifts it."""
    return (
        f"{name} has {pixels:,} pixels, more than the limit of {limit:,}; if it is sound, set DATA.MAX_PIXELS"
        f" (pre-training), INPUT.MAX_PIXELS (detection) or --max-pixels (other commands) to {pixels}, or remove it"
    )


def size_fault(image: Path, found: Size, said: Size, said_by: str) -> Finding:
    """Return the error of an image that does not have the size in its annotation."""
    remedy = "one of them is another image's"
    if found == said[::-1]:
        remedy = f"if EXIF data turn it and its boxes are of the image as stored, remove the orientation; else {remedy}"
    return Finding("error", image, "", f"is {by(found)}, but {said_by} says {by(said)}", remedy)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Lift Pillow's limit, which holds for the process; the caller checks the size against its own limit."""
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
    # 16-bit grey is mode I in some formats and some versions of Pillow.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow clips 16-bit grey to 255 on conversion; keep the upper byte instead.
        image = image.convert("I").point(lambda grey: grey / 256).convert("L")
    elif image.mode in WHITES:
        image = Image.fromarray(_scaled(np.asarray(image, dtype=np.float64), WHITES[image.mode]))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _scaled(grey: np.ndarray, whites: tuple[float, ...]) -> np.ndarray:
    """Scale H x W, float64, to uint8; see `decode_rgb`."""
    known = np.isfinite(grey)
    if not known.any():
        raise ValueError("none of its pixels is a number")
    least, most = grey[known].min(), grey[known].max()
    white = next((white for white in whites if most <= white), None)
    if least < 0 or white is None:
        grey, white = grey - least, max(most - least, np.finfo(np.float64).tiny)
    return np.rint(np.where(known, grey, 0) / white * 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # with damaged EXIF data the pixels may still be valid
        return 1


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """Decode an upright JPEG of no more than ``max_pixels``, grey or of three colours; else return None.

    OpenCV cannot be used here: for a damaged file it returns a partly decoded image and reports no error.
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
    """Tell whether a JPEG has an EXIF or XMP orientation."""
    if b"Exif\0\0" not in data and b"tiff:Orientation" not in data:
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _orientation(image) in TURNS
    except Exception:
        return True
