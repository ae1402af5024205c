"""The command ``mocodet export``: write a trained model as a TorchScript file that computes the same."""

import argparse
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from detectron2.utils.logger import setup_logger
from PIL import Image

from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open

from ..data.images import read_image
from ..predict.images import find_images
from ..predict.predictor import Predictor, read_config
from .agreement import TOLERANCE, Agreement, compare
from .trace import describe, load, save, trace

logger = logging.getLogger(__name__)

COMPARED = 3  # images
SIZES = ((480, 640), (640, 480), (512, 512))  # height, width of random images in pixels


def export(predictor: Predictor, output: Path, images: list[Path] | None = None) -> Agreement:
    """Write a model as TorchScript, after comparing the exported model with the original.

    Args:
        predictor: holds the model.
        output: the file.
        images: the first three are compared; without any, three random ones, in which a detector may find nothing.

    Returns:
        the result of the comparison.

    Raises:
        ValueError: an image cannot be read, or the model cannot be exported, or would compute something else. No file
            is written then.
    """
    inputs = [predictor.prepare(image)["image"] for image in _images(predictor, images)]
    module = trace(predictor, inputs[0])
    content = io.BytesIO()
    save(module, content, describe(predictor))
    content.seek(0)
    agreement = compare(load(content), predictor.model, inputs)
    with atomic_open(output) as handle:
        handle.write(content.getbuffer())
    return agreement


def _images(predictor: Predictor, images: list[Path] | None) -> Iterator[np.ndarray]:
    """Yield images to compare on, H x W x 3, uint8, RGB."""
    if images:
        for path in images[:COMPARED]:
            yield read_image(str(path), "RGB", predictor.cfg.INPUT.MAX_PIXELS)
        return
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        spots = rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
        yield np.asarray(Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC))


def main(args: argparse.Namespace) -> None:
    """Export as the command line asks, and describe the input and output of the exported model."""
    with errors_in_one_line():
        setup_logger(name="mocodet")
        output = Path(args.output)
        images = [file.path for file in find_images(args.images, leave_out=output)[1]] if args.images else None
        predictor = Predictor(read_config(args.config_file, args.opts), args.weights)
        agreement = export(predictor, output, images)
    told = describe(predictor)
    print(
        f"{output} computes the same as the model: on {agreement.images} images the two differ by at most"
        f" {agreement.difference:.1e} (allowed: {TOLERANCE:g})"
        + (f"; of {agreement.objects} objects, only one finds {agreement.alone}" if agreement.alone else "")
    )
    print(f"image in: {told['input']}")
    print(*(f"{name} out: {form}" for name, form in told["output"].items()), sep="\n")
    print(f"It runs on {told['device']}. In Python: import torch, torchvision; torch.jit.load({str(output)!r})")
    if not agreement.objects and "labels" not in told["output"]:
        logger.warning("the model found nothing in these images; for a full comparison, name IMAGES with objects")
