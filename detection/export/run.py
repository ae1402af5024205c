"""The command ``mocodet export``: writes a trained model as an equivalent TorchScript file."""

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

COMPARED = 3  # number of images to compare
SIZES = ((480, 640), (640, 480), (512, 512))  # height and width of the random images in pixels


def export(predictor: Predictor, output: Path, images: list[Path] | None = None) -> Agreement:
    """Write a model as TorchScript, after comparing the exported model with the original.

    Args:
        predictor: the predictor with the model.
        output: the file to write.
        images: images for the comparison, of which the first three are used. By default, three random images are used,
            in which a detector may find nothing.

    Returns:
        the result of the comparison.

    Raises:
        ValueError: an image cannot be read, the model cannot be exported, or the exported model gives other results. In
            these cases, no file is written.
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
    """Yield the images for the comparison (H x W x 3, uint8, RGB)."""
    if images:
        for path in images[:COMPARED]:
            yield read_image(str(path), "RGB", predictor.cfg.INPUT.MAX_PIXELS)
        return
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        spots = rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
        yield np.asarray(Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC))


def main(args: argparse.Namespace) -> None:
    """Export the model given on the command line, and describe the exported model's input and output."""
    with errors_in_one_line():
        setup_logger(name="mocodet")
        output = Path(args.output)
        images = [file.path for file in find_images(args.images, leave_out=output)[1]] if args.images else None
        predictor = Predictor(read_config(args.config_file, args.opts), args.weights)
        agreement = export(predictor, output, images)
    told = describe(predictor)
    print(
        f"{output} agrees with the model: on {agreement.images} images, the results differ by at most"
        f" {agreement.difference:.1e} (allowed: {TOLERANCE:g})"
        + (f"; only one of the two finds {agreement.alone} of {agreement.objects} objects" if agreement.alone else "")
    )
    print(f"image in: {told['input']}")
    print(*(f"{name} out: {form}" for name, form in told["output"].items()), sep="\n")
    print(f"The model runs on {told['device']}. In Python: import torch, torchvision; torch.jit.load({str(output)!r})")
    if not agreement.objects and "labels" not in told["output"]:
        logger.warning(
            "the model found no objects in these images; for a full comparison, specify IMAGES that contain objects"
        )
