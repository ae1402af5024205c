"""``mocodet benchmark convert``: compares the conversion for detectron2 with only reading and writing the file."""

import argparse
import pickle
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torchvision import models

from mocodet.common.benchmark.alternate import CPU, alternate
from mocodet.common.benchmark.report import Row, rows_of

from ..weights.convert import convert_file

REFERENCE = "torch.load and pickle.dump alone"


def write_checkpoint(path: Path, arch: str) -> None:
    """Write a MoCo checkpoint in the original format, with two randomly initialised encoders and a queue."""
    encoder = models.get_model(arch, num_classes=128).state_dict()
    state = {f"module.encoder_{which}.{name}": value for which in "qk" for name, value in encoder.items()}
    state |= {"module.queue": torch.randn(128, 65536), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    torch.save({"epoch": 200, "arch": arch, "state_dict": state}, path)


def read_and_write(source: Path, output: Path) -> None:
    """Read a checkpoint and write the arrays of its query encoder, without renaming or checking them."""
    state = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    arrays = {name: value.numpy() for name, value in state.items() if name.startswith("module.encoder_q.")}
    with output.open("wb") as file:
        pickle.dump(arrays, file)


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the result rows for the conversion of one encoder."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "moco.pth.tar")
        write_checkpoint(source, args.arch)
        contestants: dict[str, Callable[[], object]] = {
            REFERENCE: partial(read_and_write, source, Path(folder, "plain.pkl")),
            "mocodet convert --no-verify": partial(convert_file, source, Path(folder, "unverified.pkl"), check=False),
            "mocodet convert": partial(convert_file, source, Path(folder, "verified.pkl")),
        }
        yield rows_of(
            f"conversion, {args.arch}, {source.stat().st_size / 1e6:.0f} MB",
            alternate(contestants, args.pairs, CPU),
            reference=REFERENCE,
            clock=CPU,
            limit=REFERENCE,
            settings={"arch": args.arch},
        )
