"""Reads images in the format that ``INPUT.FORMAT`` specifies."""

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.image import decode_pixels, read_file, unreadable


def read_image(path: str, image_format: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image like detectron2's ``read_image``, following :func:`mocodet.common.formats.image.decode_rgb`.

    Args:
        path: path of the file, or any other location that detectron2's ``PathManager`` can open.
        image_format: a value of ``INPUT.FORMAT``: BGR, RGB, L (greyscale) or another of detectron2's formats.
        max_pixels: the maximum number of pixels; 0 means no limit.

    Returns:
        the image, H x W x C, which is uint8 for RGB, BGR and L. The array may be read-only.

    Raises:
        ValueError: the image cannot be read or is too large; the message includes its path.
    """
    try:
        data = read_file(PathManager.get_local_path(path))
    except OSError as error:
        raise ValueError(unreadable(path, error)) from error
    return in_format(decode_pixels(data, path, max_pixels), image_format)


def in_format(pixels: np.ndarray, image_format: str) -> np.ndarray:
    """Convert an RGB image (H x W x 3, uint8) to ``image_format``, as `read_image` does."""
    if image_format in ("RGB", "BGR"):
        return pixels if image_format == "RGB" else pixels[:, :, ::-1]
    return convert_PIL_to_numpy(Image.fromarray(pixels), image_format)
