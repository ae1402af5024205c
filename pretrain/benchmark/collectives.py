"""``mocodet benchmark collectives``: compares the communication in a step with gathering everything."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from mocodet.common.benchmark.alternate import WALL, Seconds, alternate
from mocodet.common.benchmark.report import Row, rows_of

from ..costs.count import CollectiveCounter, sent
from ..methods.encoding import embed_shuffled
from ..methods.shuffle_bn import BatchShuffle
from .plain_moco import gather, shuffle_by_gathering, unshuffle_by_gathering

REFERENCE = "all images and keys gathered, as the original's"
OURS = "mocodet: the rows that are needed"
DIM = 128  # C, the dimension of keys


class FewPixels(torch.nn.Module):
    """Replaces the encoder to measure only communication. The first pixels of an image serve as its key."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images, N x 3 x H x W, to keys, N x C."""
        return images.flatten(1)[:, :DIM]


def plain_exchange(images: torch.Tensor) -> torch.Tensor:
    """Encode shuffled images and return the keys of all processes with three full gathers, like the original code.

    Args:
        images: images of this process, N x 3 x H x W.
    """
    shuffled, places = shuffle_by_gathering(images)
    keys = unshuffle_by_gathering(torch.nn.functional.normalize(FewPixels()(shuffled), dim=1), places)
    return gather(keys)  # for the queue


def our_exchange(images: torch.Tensor, shuffle: BatchShuffle) -> torch.Tensor:
    """Compute the same result as `plain_exchange` with mocodet's implementation; see `embed_shuffled`."""
    return embed_shuffled(FewPixels(), images, shuffle)


def bytes_sent(run: Callable[[], object], processes: int) -> float:
    """Count the bytes that leave a process during ``run``."""
    with CollectiveCounter() as counter:
        run()
    return sum(sent(operation, handed, processes) for operation, handed in counter.handed.items())


def compare(rows: int, size: int, pairs: int) -> tuple[Seconds, dict[str, float]]:
    """Compare both implementations in each process of a group.

    Args:
        rows: number of images in this process.
        size: side length of the images in pixels.
        pairs: see `alternate`.

    Returns:
        the seconds of each run, and the bytes that leave this process in one run, both by implementation.

    Raises:
        ValueError: the two implementations return different keys.
    """
    images = torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(comm.get_rank()))
    contestants: dict[str, Callable[[], torch.Tensor]] = {
        REFERENCE: partial(plain_exchange, images),
        OURS: partial(our_exchange, images, BatchShuffle(seed=0)),
    }
    expected, found = (run() for run in contestants.values())
    if not torch.equal(expected, found):
        raise ValueError("the two implementations return different keys")
    # All processes start together; otherwise, a process would also time how long it waits for earlier work of another.
    seconds = alternate(contestants, pairs, WALL, before=dist.barrier)
    return seconds, {who: bytes_sent(run, comm.get_world_size()) for who, run in contestants.items()}


def work(rank: int, processes: int, folder: str, sizes: tuple[int, int, int]) -> None:
    """Run `compare` with ``sizes`` in one of the processes. Rank 0 writes the results to ``folder/found.pt``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    comm.create_local_process_group(processes)
    found = compare(*sizes)
    if rank == 0:
        torch.save(found, Path(folder, "found.pt"))
    comm.synchronize()
    dist.destroy_process_group()


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows for the communication in one step."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = args.processes, folder, (args.rows, args.size, args.pairs)
        mp.start_processes(work, arguments, nprocs=args.processes, start_method="spawn")
        seconds, sent_bytes = torch.load(Path(folder, "found.pt"), weights_only=True)
    yield rows_of(
        f"exchange of a step, {args.processes} processes over gloo, {args.rows} images of {args.size} px each",
        seconds,
        reference=REFERENCE,
        clock=WALL,
        settings={name: getattr(args, name) for name in ("processes", "rows", "size")},
        details={who: {"MB from a process": f"{count / 1e6:.1f}"} for who, count in sent_bytes.items()},
    )
