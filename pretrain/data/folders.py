"""A folder of images of any depth, without labels."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS


class ImageFolder(Sequence[Image.Image]):
    """The images below a folder, class folders or not, in the order of their paths, as RGB.

    Args:
        root: searched to any depth, links to folders included, for the file names that torchvision takes for images.

    Raises:
        FileNotFoundError: ``root`` is not a folder, or holds no image.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"DATA.ROOT {str(root)!r} is not a folder; give one that holds the training images")
        self.paths = sorted(
            str(Path(folder, name))
            for folder, _, names in os.walk(self.root, followlinks=True)
            for name in names
            if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")
        )
        if not self.paths:
            raise FileNotFoundError(f"{root} holds no image; looked at any depth for {', '.join(IMG_EXTENSIONS)}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return load_rgb(self.paths[index])


def load_rgb(path: str | os.PathLike) -> Image.Image:
    """Read an image file of any mode (grey of 8 or 16 bits, CMYK, palette, with alpha) as 8-bit RGB.

    Raises:
        ValueError: the file cannot be decoded; the message names it. It is not skipped: an epoch has every image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):
                # Pillow clips 16-bit grey to 255 on conversion; keep the upper byte instead.
                image = image.convert("I").point(lambda grey: grey / 256).convert("L")
            elif image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
