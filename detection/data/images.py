"""Reads images in the format that ``INPUT.FORMAT`` asks for."""

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.image import decode_pixels, read_file, unreadable


def read_image(path: str, image_format: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image like detectron2's ``read_image``, by the rules of :func:`mocodet.common.formats.image.decode_rgb`.

    Args:
        path: of the file, or anything else that detectron2's ``PathManager`` opens.
        image_format: as ``INPUT.FORMAT``: BGR, RGB, L (grey) or another of detectron2's.
        max_pixels: the largest allowed number of pixels; 0: no limit.

    Returns:
        H x W x C, uint8 in RGB, BGR and L; it may be read-only.

    Raises:
        ValueError: it cannot be read, or is too large; the message names it.
    """
    try:
        data = read_file(PathManager.get_local_path(path))
    except OSError as error:
        raise ValueError(unreadable(path, error)) from error
    return in_format(decode_pixels(data, path, max_pixels), image_format)


def in_format(pixels: np.ndarray, image_format: str) -> np.ndarray:
    """Return an image, H x W x 3, uint8, RGB, as `read_image` does."""
    if image_format in ("RGB", "BGR"):
        return pixels if image_format == "RGB" else pixels[:, :, ::-1]
    return convert_PIL_to_numpy(Image.fromarray(pixels), image_format)
