"""Images that are decoded on demand, indexed by the items of a sampler."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.image import decode_pixels, decode_rgb


class UnreadableImageError(ValueError):
    """An image cannot be read or decoded.

    Attributes:
        name: name of the image, with which the message starts.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Images(Protocol):
    """8-bit RGB images, indexed by the items of a sampler."""

    def __getitem__(self, item: Any) -> Image.Image:
        """Return an image as a Pillow image."""

    def pixels(self, item: Any) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8, which may be read-only."""


class EncodedImages(Dataset[Image.Image], ABC):
    """Images that are decoded on demand.

    Attributes:
        max_pixels: maximum number of pixels in an image, or 0 for no limit.

    Raises:
        UnreadableImageError: an image cannot be read or decoded. The message contains its name.
    """

    max_pixels = MAX_PIXELS

    @abstractmethod
    def encoded(self, item: Any) -> tuple[str, bytes]:
        """Return the name of an image for messages, and the contents of its file."""

    def __getitem__(self, item: Any) -> Image.Image:
        name, data = self.encoded(item)
        with _named(name):
            return decode_rgb(io.BytesIO(data), name, self.max_pixels)

    def pixels(self, item: Any) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8."""
        name, data = self.encoded(item)
        with _named(name):
            return decode_pixels(data, name, self.max_pixels)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UnreadableImageError(str(error), name) from error
