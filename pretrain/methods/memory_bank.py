"""Memory bank: a vector for each image of the data set, and no key encoder (figure 2b; Wu et al., CVPR 2018)."""

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

# Rows of the bank that are drawn at a time: 32 MiB of 128-d vectors.
ROWS_AT_ONCE = 65536


class MemoryBank(Method, name="memory_bank"):
    """Queries against vectors of a bank, which remembers for each image the queries that it gave when it was seen.

    The positive of image i is entry i. One draw of K entries, uniform and with replacement, serves all queries of the
    global batch, as MoCo's queue does: a draw for each query, as in Wu et al., would gather N x K x C numbers, 1.1 GB
    on each of the paper's 8 GPUs (N 32, K 65536, C 128), where a common one gathers 34 MB. A query's own entry, where
    it is drawn, is left out of that query's negatives. An image's entry is updated once its loss is taken.

    State: ``encoder_q.*``, ``bank`` (D x C, unit vectors) and the state of the generator that draws (``_extra_state``).
    Both are the same in all processes.

    Args:
        encoder: f_q, images to N x C vectors.
        dataset_size: D, images in the data set.
        num_negatives: K; it may exceed D.
        bank_momentum: m of an entry's update, v <- normalise(m v + (1 - m) q).
        dim: C, the width of the encoder's output.
        temperature: tau of equation 1.
        seed: of the noise that the bank starts as and of the draws; the same in all processes.
        device: where the bank is made. It should be the device of training: there its size is checked.

    Raises:
        ValueError: the bank does not fit into the device's memory; nothing was allocated.
    """

    bank: torch.Tensor
    views = ("query",)
    needs_index = True
    keys = CONTRAST_KEYS | {
        "CONTRAST.NUM_NEGATIVES": Key(65536, "K, the number of negatives sampled from the bank.", at_least(1)),
        "CONTRAST.BANK_MOMENTUM": Key(0.5, "Momentum of an entry when its image is seen.", SHARE),
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
        # Drawn on the CPU, to be the same on all devices, and in parts: no second bank is made beside the first.
        for part in bank.split(ROWS_AT_ONCE):
            part.copy_(F.normalize(torch.randn(part.shape, generator=self.generator), dim=1))
        self.register_buffer("bank", bank)

    @classmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "MemoryBank":
        """Build the encoder and a bank for the data on the device of training."""
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
        """Return the bytes of an entry of the bank."""
        return cfg.MODEL.DIM * torch.float32.itemsize

    def to_fill(self) -> dict[str, int]:
        """Return the number of entries, of which those stay as they were whose images are left over in an epoch."""
        return {"bank": len(self.bank)}

    @torch.no_grad()
    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Put queries in place of the entries of a batch."""
        q = embed(self.encoder_q, batch["query"])
        self.bank[gather_rows(batch["index"])] = gather_rows(q)

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return ln(K+1) and 1/(K+1), of the negatives drawn; a query's own entry among them is rare."""
        return chance_among(cfg.CONTRAST.NUM_NEGATIVES + 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Make one step short of the optimizer's, and update the entries of the global batch.

        Args:
            batch: ``"query"``, N x 3 x H x W, and ``"index"``, N, int64, the place of each image in the data set.

        Returns:
            ``"loss"``, InfoNCE (scalar, with gradient to ``encoder_q``); ``"accuracy"``, the share of queries that find
            their entry among K+1; and their ``"spread"``, see `spread`.
        """
        index = batch["index"]  # N
        negatives = self.draw()  # before the encoder, so that the copy to a GPU is done when it is needed
        q = embed(self.encoder_q, batch["query"])  # N x C
        logits = self.logits(q, index, negatives)
        self.update(gather_rows(index), gather_rows(q.detach()))
        return {"loss": info_nce(logits), "accuracy": contrast_accuracy(logits.detach()), "spread": spread(q)}

    def draw(self) -> torch.Tensor:
        """Draw the entries that serve as negatives: K, int64, the same in all processes."""
        drawn = torch.randint(len(self.bank), (self.num_negatives,), generator=self.generator)
        return send(drawn, self.bank.device)

    def logits(self, q: torch.Tensor, index: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Return N x (1+K) similarities over tau: column 0 of each query with its image's entry, the rest with others.

        Args:
            q: queries, N x C, unit vectors in float32.
            index: N, the entries of their images. negatives: K entries; a query's own becomes minus infinity.
        """
        # As in MoCo: reduced precision would round away what similarities differ in.
        with torch.autocast(q.device.type, enabled=False):
            positive = (q * self.bank[index]).sum(dim=1, keepdim=True)  # N x 1
            negative = q @ self.bank[negatives].T  # N x K; indexing copied what backward needs after the update
            negative = negative.masked_fill(negatives == index[:, None], -torch.inf)
            return torch.cat([positive, negative], dim=1) / self.temperature

    @torch.no_grad()
    def update(self, index: torch.Tensor, q: torch.Tensor) -> None:
        """Move entries towards queries: v <- normalise(m v + (1 - m) q).

        Args:
            index: WN, the entries of the global batch's images. Of an image that is there twice the last row counts.
            q: its queries, WN x C.
        """
        rows = torch.arange(len(index), device=index.device)
        # Every row takes the query of its image's last row; then it does not matter which of equal rows writes last.
        last = torch.where(index[:, None] == index, rows, -1).amax(dim=1)
        self.bank[index] = F.normalize(torch.lerp(q[last], self.bank[index], self.bank_momentum), dim=1)

    def get_extra_state(self) -> torch.Tensor:
        """Return the state of the generator, for `state_dict`."""
        return self.generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Let the generator go on from a state that `get_extra_state` returned."""
        self.generator.set_state(state.cpu())


def check_bank_fits(dataset_size: int, dim: int, device: torch.device) -> None:
    """Log the size of a bank that is about to be made, one in each process; refuse it where there is no room.

    Processes on the CPU share the memory of their machine; processes on CUDA have a device each.

    Raises:
        ValueError: in all processes, when it does not fit in one of them.
    """
    needed = dataset_size * dim * torch.float32.itemsize
    sharing = comm.get_local_size() if device.type == "cpu" else 1
    # Gathered, so that each process looks before any has taken its part, and all come to one answer.
    available = min(comm.all_gather(available_bytes(device) // sharing))
    size = f"memory bank of {dataset_size} images x {dim} float32: {needed / 1e9:.2f} GB in each process"
    room = f"{available / 1e9:.2f} GB of {device.type} memory available to each"
    if needed > available:
        raise ValueError(
            f"{size}, but {room} of {comm.get_world_size()}; expected a bank that fits, with room for model and"
            " activations: use fewer processes on a CPU, fewer images, a smaller MODEL.DIM, or METHOD moco, whose queue"
            " does not grow with the data set"
        )
    logger.info(f"{size}, {room}; model and activations come on top")
