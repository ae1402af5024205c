"""Generated photographs: smooth shapes under noise, so that their files are about as large as real ones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw


class Kind(NamedTuple):
    """A kind of photograph.

    Attributes:
        name: its name in tables.
        width, height: in pixels.
        noise: standard deviation of a pixel's noise, which determines the size of the file.
    """

    name: str
    width: int
    height: int
    noise: float


# JPEGs of quality 90: about 130 kB, like COCO's, and 12 kB, like Imagenette's of that size.
COCO = Kind("COCO-like photographs", 640, 480, 12.0)
SMALL = Kind("224 px photographs", 224, 224, 3.0)


def draw(rng: np.random.Generator, kind: Kind) -> Image.Image:
    """Draw one: random colours at a few places, blended smoothly, discs with sharp edges, and noise over it all."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = coarse.resize((kind.width, kind.height), Image.Resampling.BICUBIC)
    pencil = ImageDraw.Draw(smooth)
    for _ in range(12):
        centre, radius = rng.uniform(0, (kind.width, kind.height)), rng.uniform(0.02, 0.15) * kind.width
        colour = tuple(rng.integers(0, 256, 3).tolist())
        pencil.ellipse([*(centre - radius), *(centre + radius)], fill=colour)
    noise = rng.normal(0, kind.noise, (kind.height, kind.width, 1))
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))


def draw_photographs(folder: Path, count: int, kind: Kind, seed: int = 0) -> None:
    """Write ``count`` JPEGs of a kind into ``folder``, which is created."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        draw(rng, kind).save(folder / f"{number:06d}.jpg", quality=90)
