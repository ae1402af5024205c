"""Memory bank, which stores a vector for each image and uses no key encoder (figure 2b; Wu et al., CVPR 2018)."""

import logging

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.memory import available_bytes

from ..device import resolve_device
from ..host import send
from ..keys import SHARE, Key, at_least
from .base import DataFacts, Method
from .encoding import embed, spread
from .heads import CONTRAST_KEYS, encoder_from_config
from .losses import chance_among, contrast_accuracy, info_nce
from .shuffle_bn import gather_rows

logger = logging.getLogger("mocodet.pretrain")

# Number of bank rows to sample at once: 32 MiB of 128-d vectors.
ROWS_AT_ONCE = 65536


class MemoryBank(Method, name="memory_bank"):
    """Contrasts queries with the vectors in a bank, which averages the queries of each image over time.

    The positive of image i is entry i. The K negatives are sampled uniformly and with replacement once for the global
    batch, like MoCo's queue. A sample for each query, as in Wu et al., would gather N x K x C numbers, or 1.1 GB on
    each of the paper's 8 GPUs (N 32, K 65536, C 128), compared to 34 MB for a shared sample. If a query's own entry is
    sampled, it is excluded from the negatives of that query. Entries are updated after the loss has been computed.

    State: ``encoder_q.*``, ``bank`` (D x C, unit vectors) and the state of the sampling generator (``_extra_state``).
    The bank and the generator are the same in all processes.

    Args:
        encoder: f_q, which maps images to N x C vectors.
        dataset_size: D, the number of images in the data set.
        num_negatives: K, the number of negatives, which may exceed D.
        bank_momentum: m in the update of an entry, v <- normalise(m v + (1 - m) q).
        dim: C, the output dimension of the encoder.
        temperature: tau in equation 1.
        seed: seed for the initial noise in the bank and for sampling. It must be the same in all processes.
        device: device on which the bank is allocated, after its free memory is checked. Use the training device.

    Raises:
        ValueError: the bank does not fit into the memory of the device. Nothing is allocated.
    """

    bank: torch.Tensor
    views = ("query",)
    needs_index = True
    keys = CONTRAST_KEYS | {
        "CONTRAST.NUM_NEGATIVES": Key(65536, "K, the number of negatives sampled from the bank.", at_least(1)),
        "CONTRAST.BANK_MOMENTUM": Key(0.5, "Momentum for updating the bank entry of an image in the batch.", SHARE),
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dataset_size: int,
        num_negatives: int = 65536,
        bank_momentum: float = 0.5,
        dim: int = 128,
        temperature: float = 0.07,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.encoder_q = encoder
        self.num_negatives = num_negatives
        self.bank_momentum = bank_momentum
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)
        check_bank_fits(dataset_size, dim, torch.device(device))
        bank = torch.empty(dataset_size, dim, device=device)  # D x C
        # Sampled on the CPU to be the same on all devices, and in parts to avoid a second copy in memory.
        for part in bank.split(ROWS_AT_ONCE):
            part.copy_(F.normalize(torch.randn(part.shape, generator=self.generator), dim=1))
        self.register_buffer("bank", bank)

    @classmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "MemoryBank":
        """Build the encoder, and a bank for the data on the training device."""
        return cls(
            encoder_from_config(cfg),
            dataset_size=data.size,
            num_negatives=cfg.CONTRAST.NUM_NEGATIVES,
            bank_momentum=cfg.CONTRAST.BANK_MOMENTUM,
            dim=cfg.MODEL.DIM,
            temperature=cfg.CONTRAST.TEMPERATURE,
            seed=cfg.SEED,
            device=resolve_device(cfg),
        )

    @classmethod
    def bytes_per_image(cls, cfg: CfgNode) -> int:
        """Return the size of a bank entry in bytes."""
        return cfg.MODEL.DIM * torch.float32.itemsize

    def to_fill(self) -> dict[str, int]:
        """Return the number of entries. Images that are left over at the end of an epoch keep their initial noise."""
        return {"bank": len(self.bank)}

    @torch.no_grad()
    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Replace the bank entries of a batch with its queries."""
        index, q = gather_rows(batch["index"]), gather_rows(embed(self.encoder_q, batch["query"]))
        self.bank[index] = q[last_rows(index)]

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return ln(K+1) and 1/(K+1), which neglects that a query's own entry is occasionally sampled."""
        return chance_among(cfg.CONTRAST.NUM_NEGATIVES + 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one training step, excluding the optimizer, and update the entries of the global batch.

        Args:
            batch: ``"query"``, N x 3 x H x W, and ``"index"``, the index of each image in the data set, N, int64.

        Returns:
            ``"loss"``, the InfoNCE loss (a scalar with gradients for ``encoder_q``); ``"accuracy"``, the fraction of
            queries that find their entry among K+1; and ``"spread"``, see `spread`.
        """
        index = batch["index"]  # N
        negatives = self.draw()  # before the encoder runs, so that the copy to a GPU is finished when it is needed
        q = embed(self.encoder_q, batch["query"])  # N x C
        logits = self.logits(q, index, negatives)
        self.update(gather_rows(index), gather_rows(q.detach()))
        return {"loss": info_nce(logits), "accuracy": contrast_accuracy(logits.detach()), "spread": spread(q)}

    def draw(self) -> torch.Tensor:
        """Sample the indices of the K negatives, int64, which are the same in all processes."""
        drawn = torch.randint(len(self.bank), (self.num_negatives,), generator=self.generator)
        return send(drawn, self.bank.device)

    def logits(self, q: torch.Tensor, index: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Return the similarities divided by tau, N x (1+K): the image's own entry in column 0, followed by negatives.

        Args:
            q: queries, unit vectors in float32, N x C.
            index: indices of the images' entries, N.
            negatives: indices of K entries. A query's own entry gets a similarity of minus infinity.
        """
        # As in MoCo, use float32, because reduced precision would round away small differences between similarities.
        with torch.autocast(q.device.type, enabled=False):
            positive = (q * self.bank[index]).sum(dim=1, keepdim=True)  # N x 1
            negative = q @ self.bank[negatives].T  # N x K; indexing copies, so the bank can be updated before backward
            negative = negative.masked_fill(negatives == index[:, None], -torch.inf)
            return torch.cat([positive, negative], dim=1) / self.temperature

    @torch.no_grad()
    def update(self, index: torch.Tensor, q: torch.Tensor) -> None:
        """Move entries towards queries: v <- normalise(m v + (1 - m) q).

        Args:
            index: entries of the images in the global batch, WN. If an image occurs twice, its last row is used.
            q: the queries, WN x C.
        """
        moved = torch.lerp(q[last_rows(index)], self.bank[index], self.bank_momentum)
        self.bank[index] = F.normalize(moved, dim=1)

    def get_extra_state(self) -> torch.Tensor:
        """Return the state of the generator for `state_dict`."""
        return self.generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Restore a generator state returned by `get_extra_state`."""
        self.generator.set_state(state.cpu())


def last_rows(index: torch.Tensor) -> torch.Tensor:
    """Return the last row with the same index for each row: N, int64.

    If equal indices write equal values, the order of writes, which is undefined on CUDA, has no effect.
    """
    rows = torch.arange(len(index), device=index.device)
    return torch.where(index[:, None] == index, rows, -1).amax(dim=1)


def check_bank_fits(dataset_size: int, dim: int, device: torch.device) -> None:
    """Log the size of a bank before it is allocated in each process, and check that it fits into memory.

    Processes on the CPU share the memory of their machine. Processes on CUDA have one device each.

    Raises:
        ValueError: the bank does not fit in at least one process. The error is raised in all processes.
    """
    needed = dataset_size * dim * torch.float32.itemsize
    sharing = comm.get_local_size() if device.type == "cpu" else 1
    # Gathered before any process allocates memory, so that all processes reach the same decision.
    available = min(comm.all_gather(available_bytes(device) // sharing))
    size = f"memory bank of {dataset_size} images x {dim} float32: {needed / 1e9:.2f} GB in each process"
    room = f"{available / 1e9:.2f} GB of {device.type} memory available to each"
    if needed > available:
        raise ValueError(
            f"{size}, but {room} of {comm.get_world_size()}; expected a bank that leaves room for the model and its"
            " activations: use fewer processes on a CPU, fewer images, a smaller MODEL.DIM, or METHOD moco, whose queue"
            " does not grow with the data set"
        )
    logger.info(f"{size}, {room}, not counting the model and activations")
