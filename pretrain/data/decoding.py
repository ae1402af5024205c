"""Images by what a sampler draws, decoded when they are asked for."""

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
    """An image that cannot be read or decoded.

    Attributes:
        name: what the message, which begins with it, calls the image.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Images(Protocol):
    """Images by what a sampler draws, as RGB of 8 bits."""

    def __getitem__(self, item: Any) -> Image.Image:
        """Return an image as Pillow has it."""

    def pixels(self, item: Any) -> np.ndarray:
        """Return an image as an array, H x W x 3, uint8; it may be read only."""


class EncodedImages(Dataset[Image.Image], ABC):
    """Images that are decoded when they are asked for.

    Attributes:
        max_pixels: how large an image may be; 0: of any size.

    Raises:
        UnreadableImageError: one cannot be read or decoded; the message names it.
    """

    max_pixels = MAX_PIXELS

    @abstractmethod
    def encoded(self, item: Any) -> tuple[str, bytes]:
        """Return what messages call an image, and the bytes of its file."""

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
