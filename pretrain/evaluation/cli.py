"""The commands `tools/knn_eval.py` and `tools/linear_eval.py`."""

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from mocodet.common.errors import errors_in_one_line
from mocodet.common.files import atomic_open

from ..data.folders import warn_of_passed_over
from ..data.labelled import LabelledImages, open_labelled, require_same_classes
from .features import FeatureSettings, cached_features, load_backbone, random_backbone, state_digest
from .knn import BANK_CHUNK, QUERY_CHUNK, nearest_keys, vote
from .linear import Protocol, evaluate_linear, grid_of, published_steps

KNN = """Classify images by the nearest neighbours of their features; nothing is trained (Wu et al., CVPR 2018, 3.4).

  tools/knn_eval.py output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8
  tools/knn_eval.py --random resnet50 --train imagenet/train --val imagenet/val --workers 8

The second command measures random weights, which pre-training must beat. See docs/evaluation.md.
"""

LINEAR = """Train linear classifiers on the frozen features of a checkpoint (MoCo, section 4.1).

As published: random crops and flips, 100 epochs, rate 30, no weight decay. The backbone is proved not to change.

  tools/linear_eval.py output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8 \\
      --state output/moco_v2/linear.pth --output output/moco_v2/linear.json

Quicker, without augmentation: features are computed once. A sweep trains all classifiers in one pass over them.

  tools/linear_eval.py output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8 \\
      --cached --lr 30 3 0.3 0.03 --wd 0 1e-4

See docs/evaluation.md.
"""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def argument_parser(description: str, batch_help: str) -> argparse.ArgumentParser:
    """Make a parser with the arguments that the tools share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what is evaluated")
    source = what.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help="file of pre-training (mocodet's .pth, the original .pth.tar), of supervised training, or torchvision's",
    )
    source.add_argument("--random", metavar="ARCH", help="instead: random weights of, for example, resnet18")
    what.add_argument("--prefix", help="what stands before the encoder's names in CHECKPOINT, if it is not recognised")
    what.add_argument("--small-stem", action="store_true", help="with --random: the stem for images of 32 to 64 pixels")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is random (default: 0)")

    data = parser.add_argument_group("data")
    data.add_argument("--train", required=True, metavar="DIR", help="training images, one folder for each class")
    data.add_argument("--val", required=True, metavar="DIR", help="images to be classified, with the same classes")
    for split in ("train", "val"):
        data.add_argument(
            f"--{split}-annotations",
            default="",
            metavar="JSON",
            help=f"iNaturalist's JSON, if --{split} has no class folders; its file names are relative to --{split}",
        )
    data.add_argument(
        "--size",
        type=int,
        default=224,
        metavar="PIXELS",
        help="side of the crop (224); images are resized to 256/224 of it",
    )

    how = parser.add_argument_group("how it is computed")
    how.add_argument("--batch-size", type=int, default=256, metavar="N", help=batch_help)
    how.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode images (0)")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA, or else CPU")
    how.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the backbone; others are quicker (autocast)"
    )
    how.add_argument("--cache", metavar="DIR", help="keep features in this folder; they are computed once for all runs")
    how.add_argument("--half", action="store_true", help="store features in float16, which takes half of the memory")
    how.add_argument("--output", type=Path, metavar="FILE", help="write the results to this file, as JSON")
    return parser


@dataclass(frozen=True)
class Frozen:
    """A frozen backbone and the labelled images that it is evaluated on.

    Attributes:
        backbone: on the device of ``settings``, in evaluation mode.
        settings: how features are made.
        train, val: splits with the same classes.
        digest: of the backbone's tensors.
        description: what is evaluated and how, for the results.
    """

    backbone: nn.Module
    settings: FeatureSettings
    train: LabelledImages
    val: LabelledImages
    digest: str
    description: dict[str, Any]


def open_frozen(args: argparse.Namespace) -> Frozen:
    """Open the backbone and the images that the arguments name.

    Raises:
        FileNotFoundError, ValueError: see `load_backbone`, `random_backbone`, `open_labelled`, `require_same_classes`.
    """
    if args.small_stem and not args.random:
        raise ValueError("--small-stem goes with --random; a checkpoint's stem is recognised")
    if args.prefix is not None and args.random:
        raise ValueError("--prefix goes with a checkpoint; --random has no names to recognise")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but PyTorch finds no CUDA device; use auto or cpu")
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if args.precision == "float16" and device.type == "cpu":
        raise ValueError("--precision float16 needs CUDA; use bfloat16 or float32 on a CPU")
    settings = FeatureSettings(
        size=args.size,
        batch_size=args.batch_size,
        device=device,
        num_workers=args.workers,
        dtype=PRECISIONS[args.precision],
        storage=torch.float16 if args.half else torch.float32,
    )
    train = open_labelled(args.train, args.train_annotations)
    val = open_labelled(args.val, args.val_annotations)
    require_same_classes(train.classes, val.classes)
    for split, root in ((train, args.train), (val, args.val)):
        warn_of_passed_over(split.images, root)
    if args.random:
        backbone, arch, source = random_backbone(args.random, args.seed, args.small_stem), args.random, "random"
    else:
        backbone, arch = load_backbone(args.checkpoint, args.prefix)
        source = str(args.checkpoint)
    backbone = backbone.requires_grad_(False).to(device, memory_format=torch.channels_last)
    digest = state_digest(backbone)
    description = {
        "checkpoint": source,
        "arch": arch,
        "backbone_sha256": digest,
        "seed": args.seed,
        "train": {"root": args.train, "annotations": args.train_annotations, "images": len(train.labels)},
        "val": {"root": args.val, "annotations": args.val_annotations, "images": len(val.labels)},
        "classes": len(train.classes),
        "size": args.size,
        "precision": args.precision,
        "stored": str(settings.storage).removeprefix("torch."),
        "device": device.type,
    }
    logging.getLogger("mocodet.pretrain").info(
        f"{source} ({arch}); {len(train.labels)} training and {len(val.labels)} validation images of"
        f" {len(train.classes)} classes at {args.size} pixels; {device.type}, {args.precision}"
    )
    return Frozen(backbone, settings, train, val, digest, description)


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    """Write ``results`` to ``path``, whole or not at all; do nothing without a path."""
    if path is None:
        return
    with atomic_open(path, "w") as handle:
        json.dump(results, handle, indent=2, allow_nan=False)
        handle.write("\n")


def run_tool(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call ``main(args)``; log to the terminal, and tell bad input in one line as the commands do.

    Raises:
        SystemExit: see `errors_in_one_line`.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mocodet").setLevel(logging.INFO)
    began = time.perf_counter()
    with errors_in_one_line():
        main(args)
    logging.getLogger("mocodet.pretrain").info(f"{time.perf_counter() - began:.0f} s")


def run_knn(args: argparse.Namespace) -> None:
    """Compute the features of both splits, find the neighbours, print the accuracies."""
    if min(args.k) < 1 or args.temperature <= 0:
        raise ValueError(f"--k {args.k}, --temperature {args.temperature}; expected at least 1 and above 0")
    frozen = open_frozen(args)
    if max(args.k) > len(frozen.train.labels):
        raise ValueError(f"--k {max(args.k)} of {len(frozen.train.labels)} training images; lower it or add images")
    bank, bank_labels = cached_features(frozen.backbone, frozen.train, frozen.settings, args.cache)
    queries, query_labels = cached_features(frozen.backbone, frozen.val, frozen.settings, args.cache)
    keys = nearest_keys(
        bank,
        queries,
        max(args.k),
        query_chunk=args.query_chunk,
        bank_chunk=args.bank_chunk,
        device=frozen.settings.device,
    )
    results = [{"k": k, **vote(keys[:, :k], bank_labels, query_labels, args.temperature)} for k in args.k]
    rows = [(row["k"], row["top1"], row["top5"]) for row in results]
    print(tabulate(rows, headers=["k", "top-1", "top-5"], floatfmt=".2f", tablefmt="github"))
    write_json(args.output, {**frozen.description, "temperature": args.temperature, "results": results})


def knn_main(argv: list[str] | None = None) -> None:
    """Entry point of ``tools/knn_eval.py``."""
    parser = argument_parser(KNN, "images at a time (default: 256)")
    knn = parser.add_argument_group("nearest neighbours")
    knn.add_argument(
        "--k", type=int, nargs="+", default=[200], metavar="K", help="neighbours; several numbers, several rows (200)"
    )
    knn.add_argument("--temperature", type=float, default=0.07, metavar="T", help="of the votes (default: 0.07)")
    knn.add_argument(
        "--query-chunk", type=int, default=QUERY_CHUNK, metavar="N", help=f"images classified at a time ({QUERY_CHUNK})"
    )
    knn.add_argument(
        "--bank-chunk",
        type=int,
        default=BANK_CHUNK,
        metavar="N",
        help=f"training images compared at a time ({BANK_CHUNK}); memory grows with the product of the two",
    )
    run_tool(run_knn, parser.parse_args(argv))


def run_linear(args: argparse.Namespace) -> None:
    """Train, evaluate, prove that the backbone is unchanged, print the table."""
    steps = published_steps(args.epochs) if args.steps is None else tuple(args.steps)
    protocol = Protocol(args.epochs, args.batch_size, steps=steps, seed=args.seed)
    if late := protocol.late_steps():
        raise ValueError(
            f"--steps {' '.join(map(str, late))} would do nothing: training ends after {args.epochs} epochs; give lower"
            " ones, or more --epochs"
        )
    frozen = open_frozen(args)
    results = evaluate_linear(
        frozen.backbone,
        frozen.train,
        frozen.val,
        frozen.settings,
        protocol,
        grid_of(args.lr, args.wd),
        cached=args.cached,
        cache=args.cache,
        state=args.state,
        resume=args.resume,
    )
    rows = [
        (row["lr"], row["wd"], row["train_loss"], row["top1"], row["top5"], "best" if row["best"] else "")
        for row in results
    ]
    headers = ["lr", "wd", "train loss", "top-1", "top-5", ""]
    forms = ("g", "g", ".4f", ".2f", ".2f")
    print(tabulate(rows, headers=headers, floatfmt=forms, tablefmt="github", missingval="diverged"))
    if len(rows) > 1:
        print(f"Best of {len(rows)} by the validation images themselves: an optimistic choice, to be reported as one.")
    print(f"backbone unchanged: SHA-256 {frozen.digest[:16]}... before and after")
    mode = "cached" if args.cached else "augmented"
    write_json(args.output, {**frozen.description, "mode": mode, "protocol": asdict(protocol), "results": results})


def linear_main(argv: list[str] | None = None) -> None:
    """Entry point of ``tools/linear_eval.py``."""
    parser = argument_parser(LINEAR, "images in a batch of SGD (default: 256)")
    linear = parser.add_argument_group("linear classifiers")
    linear.add_argument("--cached", action="store_true", help="no augmentation: compute the training features once")
    linear.add_argument(
        "--lr", type=float, nargs="+", default=[30.0], metavar="RATE", help="learning rates, used as they are (30)"
    )
    linear.add_argument(
        "--wd", type=float, nargs="+", default=[0.0], metavar="DECAY", help="weight decays, each with each rate (0)"
    )
    linear.add_argument("--epochs", type=int, default=100, metavar="N", help="passes over the training images (100)")
    linear.add_argument(
        "--steps",
        type=int,
        nargs="*",
        metavar="EPOCH",
        help="epochs, in rising order, at which the rate falls to a tenth (60 %% and 80 %% of --epochs)",
    )
    linear.add_argument("--state", metavar="FILE", help="keep the state here after each epoch, for --resume")
    linear.add_argument("--resume", action="store_true", help="continue from the file of --state, if it is there")
    run_tool(run_linear, parser.parse_args(argv))
