"""Shuffling BN (section 3.3): a query and its positive key never share batch-norm statistics.

With several processes, each normalises its own rows and the key images are exchanged before the key encoder. With
one process, `GroupedBatchNorm2d` normalises groups of the batch separately, as if each group were on its own device,
and the key images change groups. Both can be combined.
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

SHUFFLE_BN = Key(True, "Shuffling BN. False only to show its effect.")

# With BN_GROUPS 0, one process normalises as the eight GPUs of the paper do.
PAPER_DEVICES = 8


def bn_groups(cfg: CfgNode) -> int:
    """Return the number of groups in which each process normalises its batch.

    Raises:
        ValueError: the rows of a process do not divide evenly into the groups, or a group would have a single image.
    """
    world = comm.get_world_size()
    groups = cfg.MODEL.BN_GROUPS or (PAPER_DEVICES if world == 1 else 1)
    rows = cfg.SOLVER.IMS_PER_BATCH // world
    if rows % groups or rows < 2 * groups:
        raise ValueError(
            f"each process has {rows} images of a batch (SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} over {world} "
            f"process(es)), which do not divide into {groups} batch-norm groups of two or more; set MODEL.BN_GROUPS"
        )
    return groups


class BatchShuffle:
    """Shuffles the rows of the global batch between processes and groups, and puts them back.

    Every process draws the same permutations from its own generator, so no permutation is ever sent. The state
    of that generator belongs in a checkpoint (`state_dict`).

    Args:
        seed: must be the same in all processes.
        enabled: False leaves every row where it is, to show the effect of shuffling.
    """

    def __init__(self, seed: int, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.generator = torch.Generator().manual_seed(seed)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "BatchShuffle":
        """Build it from ``SEED`` and ``CONTRAST.SHUFFLE_BN``; warn if a single group leaves nothing to shuffle."""
        if bn_groups(cfg) == comm.get_world_size() == 1:
            logger.warning(
                "one process and MODEL.BN_GROUPS 1: every query shares its batch-norm statistics with its key, so"
                " Shuffling BN does nothing and the pretext task can be solved without learning (paper, section 3.3)"
            )
        return cls(cfg.SEED, enabled=cfg.CONTRAST.SHUFFLE_BN)

    def draw(self, rows_per_process: int) -> torch.Tensor:
        """Return a new permutation of the global batch (int64, on the CPU): new row ``i`` is old row ``p[i]``.

        It is the identity if shuffling is disabled.
        """
        rows = rows_per_process * comm.get_world_size()
        return torch.randperm(rows, generator=self.generator) if self.enabled else torch.arange(rows)

    def shuffle(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """Return this process's rows of the shuffled global batch.

        Each row goes only to the process that needs it: each of W processes sends and receives fewer than N rows, while
        gathering the whole batch everywhere would move (W-1) N.

        Args:
            rows: N x ..., this process's rows; N is the same in all processes.
            permutation: from `draw`.
        """
        world, rank, n = comm.get_world_size(), comm.get_rank(), len(rows)
        if world == 1:
            return rows[send(permutation, rows.device)]
        source = permutation // n  # the process where each row of the shuffled batch is now
        wanted = permutation.view(world, n)  # row r: the rows of the global batch that process r needs
        # The rows that this process sends to each other process, in the receiver's order.
        outgoing = [want[want // n == rank] - rank * n for want in wanted]
        incoming = source.view(world, n)[rank]  # n, by place in the shuffled batch
        leaving = rows[send(torch.cat(outgoing), rows.device)].contiguous()
        received = torch.empty_like(leaving)
        dist.all_to_all_single(
            received,
            leaving,
            output_split_sizes=torch.bincount(incoming, minlength=world).tolist(),
            input_split_sizes=[len(rows_for) for rows_for in outgoing],
        )
        # Rows arrive sorted by sender; a stable sort of the senders gives the place of each.
        places = send(torch.argsort(incoming, stable=True), rows.device)
        shuffled = torch.empty_like(rows)
        shuffled[places] = received
        return shuffled

    def unshuffle(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """Undo `shuffle`: return this process's rows of the global batch in its original order.

        Args:
            rows: N x ..., one for each row that `shuffle` returned; they get no gradient.
            permutation: that of `shuffle`.
        """
        return self.shuffle(rows, torch.argsort(permutation))

    @staticmethod
    def first_row(rows_per_process: int) -> int:
        """Return the index of this process's first row in the global batch."""
        return comm.get_rank() * rows_per_process

    def unshuffle_gathered(self, rows: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """Gather the shuffled rows of all processes and return the global batch, WN x ..., in its original order.

        Gradients flow back, as in `gather_rows`.
        """
        return gather_rows(rows)[send(torch.argsort(permutation), rows.device)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a state returned by `state_dict`."""
        self.generator.set_state(state["generator"])


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate ``rows`` (N x ...) of all processes in order of rank: WN x ....

    Its gradient is summed over processes, each of which differentiates its own loss: a row receives the gradient of the
    sum of all losses. If the gradients of parameters are averaged afterwards, as by ``DistributedDataParallel``, they
    are those of the mean loss. Backward is collective, like forward.
    """
    return rows if comm.get_world_size() == 1 else _GatherRows.apply(rows)


# Newer versions of PyTorch warn about the older name.
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
        # A reduce-scatter would suffice, but older releases of gloo lack it, and these are only N x C numbers.
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(comm.get_world_size())[comm.get_rank()]
