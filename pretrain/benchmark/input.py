"""``mocodet benchmark input``: compares the loader with Pillow and torchvision on two views of photographs."""

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from mocodet.common.benchmark.alternate import CPU, WALL, Spread, alternate
from mocodet.common.benchmark.report import Row, rows_of
from mocodet.common.benchmark.settings import merge_changes

from ..build import TrainingData, build_data
from ..config import check_config, get_cfg
from ..data.decoding import Images
from ..data.folders import ImageFolder
from ..data.loader import load_batches
from ..data.views import collate
from .photographs import COCO, SMALL, Kind, draw_photographs
from .plain_views import PlainViews

REFERENCE = "Pillow and torchvision, as the original's"
DECODING = "decoding alone"
BATCH = 16
FILES = 256  # maximum number of images sampled from a folder, because a run uses few and a cache would decode all

# Changes to the config for each implementation.
OURS = {
    "mocodet, DATA.AUGMENT pil": {"DATA.AUGMENT": "pil"},
    "mocodet, DATA.AUGMENT cpu": {"DATA.AUGMENT": "cpu"},
    "mocodet, DATA.AUGMENT cpu, CACHE ram": {"DATA.AUGMENT": "cpu", "DATA.CACHE": "ram"},
    "mocodet, DATA.AUGMENT device": {"DATA.AUGMENT": "device"},
    "mocodet, DATA.AUGMENT device, CACHE ram": {"DATA.AUGMENT": "device", "DATA.CACHE": "ram"},
}

# Cases that are measured if neither a folder nor a size is given: kind of photograph and side length of the views.
CASES = ((COCO, 224), (SMALL, 96), (SMALL, 48))

Places = list[list[tuple[int, int]]]  # batches of (index, draw) pairs, as yielded by a sampler


@dataclass
class Decoding(Dataset[int]):
    """Decodes images in the same way as the loader and does nothing else.

    Args:
        images: images of a data set.
    """

    images: Images

    def __getitem__(self, place: tuple[int, int]) -> int:
        """Decode an image and return its height in pixels."""
        return len(self.images.pixels(place[0]))


def link_some(folder: str, into: Path, count: int) -> None:
    """Create the folder ``into`` with links to randomly selected images from ``folder``.

    Raises:
        FileNotFoundError: ``folder`` contains no images.
    """
    paths = ImageFolder(folder).paths
    into.mkdir()
    for number, path in enumerate(random.Random(0).sample(list(paths), min(count, len(paths)))):
        (into / f"{number:06d}{Path(path).suffix}").symlink_to(Path(path).resolve())


def open_data(folder: Path, crop: int, batch: int, how: Mapping[str, object]) -> TrainingData:
    """Open a folder for MoCo v2 like the trainer, with views of ``crop`` pixels and additional config keys ``how``."""
    cfg = get_cfg()
    data = {"DATA.ROOT": folder, "AUGMENTATION.CROP_SIZE": crop, "SOLVER.IMS_PER_BATCH": batch, "DATA.NUM_WORKERS": 0}
    merge_changes(cfg, "pretrain/moco_v2_R_50_200ep.yaml", {**data, **how})
    check_config(cfg)
    return build_data(cfg)


def plain_pass(folder: Path, crop: int, batches: Places, workers: int) -> Callable[[], None]:
    """Return a function that loads ``batches`` in the same way as the original code."""
    dataset = PlainViews(ImageFolder(folder).paths, crop)
    indices = [[index for index, _ in batch] for batch in batches]

    def run() -> None:
        for _ in DataLoader(dataset, batch_sampler=indices, num_workers=workers):
            pass

    return run


def our_pass(
    dataset: Dataset, batches: Places, workers: int, join: Callable[[Sequence], object] = collate
) -> Callable[[], None]:
    """Return a function that loads ``batches`` in the same way as the trainer, collating samples with ``join``."""

    def run() -> None:
        for _ in load_batches(dataset, workers, batch_sampler=batches, collate_fn=join):
            pass

    return run


def compare(folder: Path, name: str, crop: int, count: int, args: argparse.Namespace) -> list[Row]:
    """Compare the implementations on the photographs in ``folder``, loading ``count`` of them in each run."""
    batch = min(BATCH, count, len(ImageFolder(folder)))
    data = {who: open_data(folder, crop, batch, how) for who, how in OURS.items()}
    plain_decoding = data["mocodet, DATA.AUGMENT cpu"]
    batches: Places = list(islice(iter(plain_decoding.sampler), count // batch))
    contestants = {REFERENCE: plain_pass(folder, crop, batches, args.workers)}
    contestants |= {who: our_pass(one.dataset, batches, args.workers) for who, one in data.items()}
    contestants[DECODING] = our_pass(Decoding(plain_decoding.dataset.images), batches, args.workers, len)
    clock = WALL if args.workers else CPU
    seconds = alternate(contestants, args.pairs, clock)
    images = sum(map(len, batches))
    details = {}
    for who, values in seconds.items():
        # A loader without worker processes is measured in CPU time, which is the time of a single core.
        of_core = images / Spread.of(values).median / max(1, args.workers)
        details[who] = {f"cores for {args.rate} images/s": f"{args.rate / of_core:.1f}"}
    with_workers = f", {args.workers} workers" if args.workers else ""
    return rows_of(
        f"input, {name} to {crop} px{with_workers}",
        seconds,
        reference=REFERENCE,
        clock=clock,
        items=(images, "images"),
        limit=DECODING,
        unbounded=[who for who in OURS if "CACHE" in who],
        settings={"crop": crop, "images": images, "batch": batch, "workers": args.workers, "rate": args.rate},
        details=details,
    )


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of each case, which is either a given folder or generated photographs.

    Raises:
        FileNotFoundError: the folder does not exist or contains no images.
    """
    if args.images and not Path(args.images).is_dir():
        raise FileNotFoundError(f"--images {args.images} is not a folder; expected a folder of photographs")
    count = args.count or (1024 if args.workers else 48)
    cases: Sequence[tuple[Kind, int]] = CASES if args.crop is None else [(COCO, args.crop)]
    torch.manual_seed(0)
    if args.images:
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root, "images")
            link_some(args.images, folder, min(count, FILES))
            yield compare(folder, f"photographs of {Path(args.images).name}", args.crop or 224, count, args)
        return
    for kind, crop in cases:
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root, "images")
            draw_photographs(folder, min(count, 64), kind)
            yield compare(folder, kind.name, crop, count, args)
