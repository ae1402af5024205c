"""The command ``mocodet visualize``: draws the predictions of multiple runs."""

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open
from mocodet.common.imports import import_modules
from mocodet.common.text import first_few

from ..config import merged_config
from ..data import register_datasets
from ..data.images import read_image
from ..training.preflight import check_datasets
from .draw import draw_columns
from .predictions import class_names, ground_truth, index_records, read_run


def visualize(
    dataset_name: str,
    predictions: Mapping[str, str | Path],
    output: str | Path,
    *,
    images: int = 10,
    seed: int = 0,
    image_ids: Sequence[str] = (),
    threshold: float = 0.5,
) -> list[Path]:
    """Draw ground truth and predictions of runs on images of a registered data set, one ``<image>.png`` for each.

    Args:
        dataset_name: the data set of the predictions.
        predictions: the file or folder of each run's predictions, by the run's name.
        output: the folder for the output images.
        images: number of images to select if ``image_ids`` is empty; all images are drawn if there are fewer.
        seed: the seed of the selection.
        image_ids: the images to draw.
        threshold: the minimum score of objects to draw.

    Returns:
        the paths of the files that were written.

    Raises:
        FileNotFoundError: predictions or images do not exist.
        ValueError: an image is unknown, or predictions are malformed or belong to another data set.
    """
    loaded = DatasetCatalog.get(dataset_name)
    records = index_records(loaded, dataset_name)
    keys = sorted(records)
    chosen = list(image_ids) or random.Random(seed).sample(keys, min(images, len(keys)))
    if unknown := [key for key in chosen if key not in records]:
        raise ValueError(
            f"data set {dataset_name} does not contain {first_few(unknown)}; it contains images such as"
            f" {first_few(keys, 3)}"
        )
    runs = {name: read_run(name, path, dataset_name, loaded) for name, path in predictions.items()}
    drawn = []
    for key in chosen:
        truth = ground_truth(records[key], dataset_name)
        columns = [(f"ground truth: {len(truth)}", truth)]
        for name, things in runs.items():
            found = things.get(key, [])
            seen = [thing for thing in found if thing.score is None or thing.score >= threshold]
            # The pixels of a class have no scores.
            has_scores = any(thing.score is not None for in_image in things.values() for thing in in_image)
            columns.append((f"{name}: {len(seen)}{f' of {len(found)}, score ≥ {threshold:g}' * has_scores}", seen))
        image = read_image(records[key]["file_name"], "RGB", max_pixels=0)
        page = draw_columns(image, columns, class_names(dataset_name), MetadataCatalog.get(dataset_name))
        path = Path(output, f"{quote(key, safe=' ')}.png")
        with atomic_open(path) as handle:
            Image.fromarray(page).save(handle, format="PNG")
        drawn.append(path)
    return drawn


def main(args: argparse.Namespace) -> None:
    """Draw the images requested on the command line, and print where they are stored."""
    with errors_in_one_line():
        setup_logger(name="mocodet")
        import_modules(args.imports)
        cfg, _ = merged_config(args.config_file, args.opts)
        if not args.dataset and not cfg.DATASETS.TEST:
            raise ValueError(f"DATASETS.TEST is empty in {args.config_file}; specify a data set with --dataset NAME")
        # Check only the data set to be drawn.
        cfg.DATASETS.TEST = (args.dataset or cfg.DATASETS.TEST[0],)
        register_datasets(cfg)
        check_datasets(cfg, training=False)
        drawn = visualize(
            cfg.DATASETS.TEST[0],
            dict(args.predictions),
            args.output,
            images=args.images,
            seed=args.seed,
            image_ids=args.image_id,
            threshold=args.threshold,
        )
    print(f"Wrote {len(drawn)} images to {args.output}, such as {drawn[0].name}")
