"""Generates photographs of smooth, noisy shapes whose files are about as large as those of real photographs."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw


class Kind(NamedTuple):
    """A kind of photograph.

    Attributes:
        name: name in tables.
        width, height: size in pixels.
        noise: standard deviation of the pixel noise, which determines the file size.
    """

    name: str
    width: int
    height: int
    noise: float


# JPEGs of quality 90 have about 130 kB, like those of COCO, and 12 kB, like those of Imagenette at the same size.
COCO = Kind("COCO-like photographs", 640, 480, 12.0)
SMALL = Kind("224 px photographs", 224, 224, 3.0)


def draw(rng: np.random.Generator, kind: Kind) -> Image.Image:
    """Draw a photograph: random colours blended smoothly, discs with sharp edges, and noise on top."""
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
    """Create ``folder`` and write ``count`` JPEGs of the given kind to it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        draw(rng, kind).save(folder / f"{number:06d}.jpg", quality=90)
