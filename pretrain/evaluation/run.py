"""The commands ``mocodet knn`` and ``mocodet linear``."""

import argparse
import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from mocodet.common.encoders.reading import read_encoder
from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import write_json
from mocodet.common.mishaps import Advice, mishaps_told

from ..data.folders import LabelledImages, warn_of_passed_over
from ..data.labelled import check_same_classes, open_labelled
from .features import FeatureSettings, cached_features, random_backbone, state_digest
from .knn import knn_accuracy
from .linear import Protocol, evaluate_linear, published_steps
from .neighbours import SplitPart, fixed_neighbours

logger = logging.getLogger("mocodet.pretrain")

ADVICE = Advice("an output file", "--workers", "use a smaller --batch-size", "run the command again")


@contextmanager
def as_command() -> Iterator[None]:
    """Set up terminal logging, report invalid input in one line like other commands, and log the duration at the end.

    Raises:
        SystemExit: see `errors_in_one_line`.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mocodet").setLevel(logging.INFO)
    began = time.perf_counter()
    with errors_in_one_line(), mishaps_told(ADVICE):
        yield
    logger.info(f"finished in {time.perf_counter() - began:.0f} s")


def open_frozen(
    args: argparse.Namespace,
) -> tuple[nn.Module, LabelledImages, LabelledImages, FeatureSettings, dict[str, Any]]:
    """Open the frozen backbone and the labelled images specified by the arguments.

    Returns:
        the backbone (in evaluation mode, on the device of the settings); the training and validation splits, which have
        the same classes; the feature settings; and a description of the evaluation for the results, in which
        ``"backbone_sha256"`` is the digest of the backbone's tensors.

    Raises:
        FileNotFoundError, ValueError: see `read_encoder`, `random_backbone`, `open_labelled`, `check_same_classes`.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but PyTorch did not find a CUDA device; use auto or cpu")
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if args.precision == "float16" and device.type == "cpu":
        raise ValueError("--precision float16 requires CUDA; use bfloat16 or float32 on a CPU")
    settings = FeatureSettings(
        size=args.size,
        batch_size=args.batch_size,
        device=device,
        num_workers=args.workers,
        dtype=getattr(torch, args.precision),
        storage=torch.float16 if args.half else torch.float32,
    )
    train = open_labelled(args.train, args.train_annotations)
    val = open_labelled(args.val, args.val_annotations)
    check_same_classes(train.classes, val.classes)
    for split, root in ((train, args.train), (val, args.val)):
        warn_of_passed_over(split.images, root)
        split.images.max_pixels = args.max_pixels
    if args.random:
        backbone, arch, source = random_backbone(args.random, args.seed, args.small_stem), args.random, "random"
        progress = ""
    else:
        encoder = read_encoder(args.checkpoint, args.prefix)
        backbone, arch, source = encoder.build(), encoder.arch, args.checkpoint
        progress = encoder.progress
        for note in encoder.notes:
            logger.info(note)
    backbone = backbone.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    description = {
        "checkpoint": source,
        "progress": progress,
        "arch": arch,
        "backbone_sha256": state_digest(backbone),
        "seed": args.seed,
        "train": {"root": args.train, "annotations": args.train_annotations, "images": len(train.labels)},
        "val": {"root": args.val, "annotations": args.val_annotations, "images": len(val.labels)},
        "classes": len(train.classes),
        "size": args.size,
        "precision": args.precision,
        "stored": str(settings.storage).removeprefix("torch."),
        "device": device.type,
    }
    logger.info(
        f"{source} ({arch}); {len(train.labels)} training and {len(val.labels)} validation images of"
        f" {len(train.classes)} classes at {args.size} pixels; {device.type}, {args.precision}"
    )
    return backbone, train, val, settings, description


@as_command()
def knn(args: argparse.Namespace) -> None:
    """Run ``mocodet knn``: compute the features of both splits, classify, and print the accuracies."""
    backbone, train, val, settings, description = open_frozen(args)
    if max(args.k) > len(train.labels):
        raise ValueError(
            f"--k {max(args.k)} exceeds the number of training images, {len(train.labels)}; lower it or add images"
        )
    bank, queries = (cached_features(backbone, split, settings, args.cache) for split in (train, val))
    scores = knn_accuracy(bank, train.labels, queries, val.labels, args.k, args.temperature, settings.device)
    results = [{"k": k, **row} for k, row in zip(args.k, scores, strict=True)]
    rows = [(row["k"], row["top1"], row["top5"]) for row in results]
    print(tabulate(rows, headers=["k", "top-1", "top-5"], floatfmt=".2f", tablefmt="github"))
    if args.output:
        parts = SplitPart(train, slice(None), bank), SplitPart(val, slice(None), queries)
        neighbours = fixed_neighbours(*parts, settings.device)
        found = {"temperature": args.temperature, "results": results, "neighbours": neighbours}
        write_json(args.output, {**description, **found})


@as_command()
def linear(args: argparse.Namespace) -> None:
    """Run ``mocodet linear``: train, evaluate, verify that the backbone is unchanged, and print the results."""
    steps = published_steps(args.epochs) if args.steps is None else tuple(args.steps)
    protocol = Protocol(args.epochs, args.batch_size, steps=steps, seed=args.seed)
    backbone, train, val, settings, description = open_frozen(args)
    grid = list(itertools.product(args.lr, args.wd))
    options = {name: getattr(args, name) for name in ("cached", "cache", "state", "resume")}
    results = evaluate_linear(backbone, train, val, settings, protocol, grid, **options)
    rows = [
        (row["lr"], row["wd"], row["train_loss"], row["top1"], row["top5"], "best" if row["best"] else "")
        for row in results
    ]
    headers = ["lr", "wd", "train loss", "top-1", "top-5", ""]
    forms = ("g", "g", ".4f", ".2f", ".2f")
    print(tabulate(rows, headers=headers, floatfmt=forms, tablefmt="github", missingval="diverged"))
    if len(rows) > 1:
        selected = f"the best of {len(rows)} classifiers was selected on the validation images"
        print(f"Note: {selected}, so its accuracy is optimistic.")
    print(f"backbone unchanged: SHA-256 {description['backbone_sha256'][:16]}... before and after")
    if args.output:
        mode = "cached" if args.cached else "augmented"
        write_json(args.output, {**description, "mode": mode, "protocol": asdict(protocol), "results": results})
