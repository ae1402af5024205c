"""The command ``mocodet predict``: runs a trained model on unlabelled images."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from detectron2.utils.logger import setup_logger

from mocodet.common.errors import errors_in_one_line
from mocodet.common.mishaps import Advice, mishaps_told
from mocodet.common.progress import progress

from ..data.classes import predicts_pixels
from ..evaluation.coco_results import RESULTS
from .images import ImageFile, Loaded, find_images, in_batches, read_images
from .output import (
    LABELS,
    PICTURES,
    LabelWriter,
    object_writer,
    output_names,
    start_folder,
    write_images,
    write_picture,
)
from .predictor import Prediction, Predictor, read_config

logger = logging.getLogger(__name__)

LABEL_VALUES = 256  # of an 8-bit image

ADVICE = Advice(
    "an output file",
    "DATALOADER.NUM_WORKERS",
    "use a smaller --batch-size or INPUT.MIN_SIZE_TEST",
    "run the command again with --overwrite",
)


def predict(
    predictor: Predictor,
    root: Path,
    files: Sequence[ImageFile],
    output: Path,
    *,
    batch_size: int = 1,
    threshold: float | None = None,
    pictures: bool = True,
) -> list[str]:
    """Predict on images, and write the predictions to a folder.

    Args:
        predictor: the predictor with the model.
        root: the folder to which the names of the images are relative.
        files: the images; their ids are 1, 2 and so on.
        output: the folder, created by `start_folder`.
        batch_size: number of images of the same size to process at a time.
        threshold: the minimum score of objects to write and draw. If None, all objects are written, and those with a
            score of at least DRAWN_FROM are drawn.
        pictures: whether to write annotated images.

    Returns:
        an error message for each file that could not be read. Predictions on all other files are written.
    """
    names, images, faults = output_names(files), [], []
    pixelwise = predicts_pixels(predictor.cfg)
    opened = (
        nullcontext(LabelWriter(output, predictor.classes))
        if pixelwise
        else object_writer(output, predictor.classes, threshold)
    )
    with opened as write:
        found = _predictions(predictor, files, batch_size, keep_pixels=pictures)
        for item, prediction in progress(found, "image", len(files)):
            if prediction is None or item.inputs is None:
                logger.warning(item.fault)
                faults.append(item.fault)
                continue
            size = {"width": item.inputs["width"], "height": item.inputs["height"]}
            images.append({"id": item.place + 1, "file_name": files[item.place].name, **size})
            things = write(item.place + 1, names[item.place], prediction)
            if item.pixels is not None:
                write_picture(output, names[item.place], item.pixels, things, predictor.classes)
        write_images(output, root, sorted(images, key=lambda image: image["id"]), predictor.classes)
    return faults


def _predictions(
    predictor: Predictor, files: Sequence[ImageFile], batch_size: int, *, keep_pixels: bool
) -> Iterator[tuple[Loaded, Prediction | None]]:
    """Yield each file with its prediction, or None if the file could not be read."""
    cfg = predictor.cfg
    workers = cfg.DATALOADER.NUM_WORKERS
    loaded = read_images(
        files, predictor.prepare, max_pixels=cfg.INPUT.MAX_PIXELS, workers=workers, keep_pixels=keep_pixels
    )
    for batch in in_batches(loaded, batch_size):
        inputs = [item.inputs for item in batch if item.inputs is not None]
        yield from zip(batch, predictor.infer(inputs) if inputs else [None], strict=True)


def main(args: argparse.Namespace) -> None:
    """Predict on the images given on the command line, and print where the predictions are.

    Raises:
        SystemExit: an error occurred. If a file could not be read, predictions on the other files are still written.
    """
    with errors_in_one_line(), mishaps_told(ADVICE):
        setup_logger(name="mocodet")
        output = Path(args.output)
        root, files = find_images(args.images, leave_out=output)
        predictor = Predictor(read_config(args.config_file, args.opts), args.weights)
        pixelwise = predicts_pixels(predictor.cfg)
        if pixelwise and args.threshold is not None:
            raise ValueError(
                "--threshold applies to object scores, but this model classifies pixels; remove --threshold"
            )
        if pixelwise and len(predictor.classes.names) > LABEL_VALUES:
            raise ValueError(
                f"the model has {len(predictor.classes.names)} classes, but an 8-bit label image can represent only"
                f" {LABEL_VALUES}"
            )
        command = {"config_file": args.config_file, "weights": args.weights, "threshold": args.threshold}
        start_folder(output, {**command, "overrides": args.opts}, overwrite=args.overwrite)
        options = {"batch_size": args.batch_size, "threshold": args.threshold, "pictures": args.pictures}
        faults = predict(predictor, root, files, output, **options)
        if faults:
            raise ValueError(
                f"{len(faults)} of {len(files)} images could not be read (see the warnings above); the predictions on"
                f" the other {len(files) - len(faults)} are in {output}"
            )
    print(
        f"Predictions on {len(files)} images are in {output / (LABELS if pixelwise else RESULTS)}"
        + (f", annotated images in {output / PICTURES}" if args.pictures else "")
    )
