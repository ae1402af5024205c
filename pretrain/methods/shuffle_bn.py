"""Shuffling BN (section 3.3), which prevents a query and its positive key from sharing batch-norm statistics.

With multiple processes, each one normalises its own rows, and the key images are exchanged before they are encoded.
With a single process, `GroupedBatchNorm2d` normalises groups of the batch separately, as if each group were on its own
device, and the key images change groups. Both can be combined.
"""

import logging

import torch
import torch.distributed as dist
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch.autograd.function import FunctionCtx, once_differentiable

from ..host import send
from ..keys import Key

logger = logging.getLogger("mocodet.pretrain")

SHUFFLE_BN = Key(True, "Enable Shuffling BN. Disable it only to demonstrate its effect.")

# With BN_GROUPS 0, a single process normalises as many groups as there are GPUs in the paper.
PAPER_DEVICES = 8


def default_groups() -> int:
    """Return the number of groups that ``MODEL.BN_GROUPS`` 0 selects."""
    return PAPER_DEVICES if comm.get_world_size() == 1 else 1


def bn_groups(cfg: CfgNode) -> int:
    """Return the number of groups in which each process normalises its batch.

    Raises:
        ValueError: the rows of a process cannot be divided evenly into groups of at least two images.
    """
    world = comm.get_world_size()
    groups = cfg.MODEL.BN_GROUPS or default_groups()
    rows = cfg.SOLVER.IMS_PER_BATCH // world
    if rows % groups or rows < 2 * groups:
        raise ValueError(
            f"each process has {rows} images per batch (SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} over {world} "
            f"process(es)), which cannot be divided into {groups} batch-norm groups of two or more; set MODEL.BN_GROUPS"
        )
    return groups


class BatchShuffle:
    """Shuffles the rows of the global batch between processes and groups, and restores their order.

    Every process generates the same permutations with its own generator, so permutations are never sent. Save the
    state of the generator in checkpoints (`state_dict`).

    Args:
        seed: seed of the generator, which must be the same in all processes.
        enabled: whether to shuffle. False keeps the original order, to demonstrate the effect of shuffling.
    """

    def __init__(self, seed: int, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.generator = torch.Generator().manual_seed(seed)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "BatchShuffle":
        """Build it from ``SEED`` and ``CONTRAST.SHUFFLE_BN``. Warn if there is only a single group in total."""
        if bn_groups(cfg) == comm.get_world_size() == 1:
            logger.warning(
                "with one process and MODEL.BN_GROUPS 1, every query shares its batch-norm statistics with its key:"
                " Shuffling BN has no effect, and the pretext task can be solved without learning (paper, section 3.3)"
            )
        return cls(cfg.SEED, enabled=cfg.CONTRAST.SHUFFLE_BN)

    def draw(self, rows_per_process: int) -> torch.Tensor:
        """Return a new permutation of the global batch (int64, on the CPU): new row ``i`` is old row ``p[i]``.

        If shuffling is disabled, the identity is returned.
        """
        rows = rows_per_process * comm.get_world_size()
        return torch.randperm(rows, generator=self.generator) if self.enabled else torch.arange(rows)

    def shuffle(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """Return this process's rows of the shuffled global batch.

        Each row is sent only to the process that needs it. Each of W processes therefore sends and receives fewer than
        N rows, whereas gathering the complete batch in all processes would transfer (W-1) N.

        Args:
            rows: rows of this process, N x .... N must be the same in all processes.
            permutation: the result of `draw`.
        """
        world, rank, n = comm.get_world_size(), comm.get_rank(), len(rows)
        if world == 1:
            return rows[send(permutation, rows.device)]
        source = permutation // n  # the process that currently has each row of the shuffled batch
        wanted = permutation.view(world, n)  # row r: the rows of the global batch that process r needs
        # The rows that this process sends to each other process, in the order of the receiver.
        outgoing = [want[want // n == rank] - rank * n for want in wanted]
        incoming = source.view(world, n)[rank]  # n, by position in the shuffled batch
        leaving = rows[send(torch.cat(outgoing), rows.device)].contiguous()
        received = torch.empty_like(leaving)
        dist.all_to_all_single(
            received,
            leaving,
            output_split_sizes=torch.bincount(incoming, minlength=world).tolist(),
            input_split_sizes=[len(rows_for) for rows_for in outgoing],
        )
        # Rows arrive sorted by sender. A stable sort of the senders yields the position of each row.
        places = send(torch.argsort(incoming, stable=True), rows.device)
        shuffled = torch.empty_like(rows)
        shuffled[places] = received
        return shuffled

    def unshuffle(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """Undo `shuffle` and return this process's rows of the global batch in their original order.

        Args:
            rows: one row for each row that `shuffle` returned, N x .... They receive no gradient.
            permutation: the permutation that was passed to `shuffle`.
        """
        return self.shuffle(rows, torch.argsort(permutation))

    @staticmethod
    def first_row(rows_per_process: int) -> int:
        """Return the index of this process's first row in the global batch."""
        return comm.get_rank() * rows_per_process

    def unshuffle_gathered(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """Gather the shuffled rows of all processes and return the global batch, WN x ..., in its original order.

        Gradients are propagated as in `gather_rows`.
        """
        return gather_rows(rows)[send(torch.argsort(permutation), rows.device)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a state returned by `state_dict`."""
        self.generator.set_state(state["generator"])


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate ``rows`` (N x ...) of all processes in the order of their ranks: WN x ....

    Each process differentiates its own loss, and the gradients of a row are summed over processes. A row thus receives
    the gradient of the sum of all losses. If parameter gradients are averaged afterwards, as
    ``DistributedDataParallel`` does, they are the gradients of the mean loss. Both forward and backward are collective.
    """
    return rows if comm.get_world_size() == 1 else _GatherRows.apply(rows)


# Recent PyTorch versions emit a warning for the older name.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: torch.Tensor) -> torch.Tensor:
        gathered = rows.new_empty(comm.get_world_size() * len(rows), *rows.shape[1:])
        _all_gather(gathered, rows.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        # A reduce-scatter would suffice, but older releases of gloo do not support it, and N x C numbers are few.
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(comm.get_world_size())[comm.get_rank()]
