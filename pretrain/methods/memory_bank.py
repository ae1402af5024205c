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
    """Queries against the vectors of a bank, which averages the queries of each image over time.

    The positive of image i is entry i. One draw of K entries, uniform and with replacement, serves all queries of the
    global batch, like MoCo's queue. A draw for each query, as in Wu et al., would gather N x K x C numbers, 1.1 GB on
    each of the paper's 8 GPUs (N 32, K 65536, C 128); a common draw gathers 34 MB. If a query's own entry is drawn, it
    is left out of that query's negatives. An image's entry is updated after its loss has been computed.

    State: ``encoder_q.*``, ``bank`` (D x C, unit vectors) and the state of the generator that draws (``_extra_state``).
    Bank and generator are the same in all processes.

    Args:
        encoder: f_q, images to N x C vectors.
        dataset_size: D, images in the data set.
        num_negatives: K; it may exceed D.
        bank_momentum: m of an entry's update, v <- normalise(m v + (1 - m) q).
        dim: C, the width of the encoder's output.
        temperature: tau of equation 1.
        seed: seed of the noise that initialises the bank and of the draws; the same in all processes.
        device: where the bank is allocated; it should be the training device, whose free memory is checked.

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
        # Drawn on the CPU, to be the same on all devices, and in parts, to avoid a second bank in memory.
        for part in bank.split(ROWS_AT_ONCE):
            part.copy_(F.normalize(torch.randn(part.shape, generator=self.generator), dim=1))
        self.register_buffer("bank", bank)

    @classmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "MemoryBank":
        """Build the encoder and a bank for the data on the training device."""
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
        """Return the size of an entry of the bank in bytes."""
        return cfg.MODEL.DIM * torch.float32.itemsize

    def to_fill(self) -> dict[str, int]:
        """Return the number of entries; those of images that are left over in an epoch are not filled."""
        return {"bank": len(self.bank)}

    @torch.no_grad()
    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Replace the entries of a batch by its queries."""
        q = embed(self.encoder_q, batch["query"])
        self.bank[gather_rows(batch["index"])] = gather_rows(q)

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return ln(K+1) and 1/(K+1), for the negatives drawn; a query's own entry is rarely among them."""
        return chance_among(cfg.CONTRAST.NUM_NEGATIVES + 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one step, without the optimizer, and update the entries of the global batch.

        Args:
            batch: ``"query"``, N x 3 x H x W, and ``"index"``, N, int64, the place of each image in the data set.

        Returns:
            ``"loss"``, InfoNCE (a scalar with gradient to ``encoder_q``); ``"accuracy"``, the share of queries that
            find their entry among K+1; and their ``"spread"``, see `spread`.
        """
        index = batch["index"]  # N
        negatives = self.draw()  # before the encoder, so that the copy to a GPU is done when it is needed
        q = embed(self.encoder_q, batch["query"])  # N x C
        logits = self.logits(q, index, negatives)
        self.update(gather_rows(index), gather_rows(q.detach()))
        return {"loss": info_nce(logits), "accuracy": contrast_accuracy(logits.detach()), "spread": spread(q)}

    def draw(self) -> torch.Tensor:
        """Draw the entries for the negatives: K, int64, the same in all processes."""
        drawn = torch.randint(len(self.bank), (self.num_negatives,), generator=self.generator)
        return send(drawn, self.bank.device)

    def logits(self, q: torch.Tensor, index: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Return N x (1+K) similarities over tau: in column 0 with the image's own entry, in the rest with negatives.

        Args:
            q: queries, N x C, unit vectors in float32.
            index: N, the entries of their images. negatives: K entries; a query's own becomes minus infinity.
        """
        # As in MoCo: reduced precision would round away the differences of similarities.
        with torch.autocast(q.device.type, enabled=False):
            positive = (q * self.bank[index]).sum(dim=1, keepdim=True)  # N x 1
            negative = q @ self.bank[negatives].T  # N x K; indexing copies, so backward works after the update
            negative = negative.masked_fill(negatives == index[:, None], -torch.inf)
            return torch.cat([positive, negative], dim=1) / self.temperature

    @torch.no_grad()
    def update(self, index: torch.Tensor, q: torch.Tensor) -> None:
        """Move entries towards queries: v <- normalise(m v + (1 - m) q).

        Args:
            index: WN, the entries of the global batch's images. If an image occurs twice, the last row counts.
            q: the queries, WN x C.
        """
        rows = torch.arange(len(index), device=index.device)
        # Every row gets the query of its image's last row, so that the order of writes does not matter.
        last = torch.where(index[:, None] == index, rows, -1).amax(dim=1)
        self.bank[index] = F.normalize(torch.lerp(q[last], self.bank[index], self.bank_momentum), dim=1)

    def get_extra_state(self) -> torch.Tensor:
        """Return the state of the generator, for `state_dict`."""
        return self.generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Restore the generator from a state that `get_extra_state` returned."""
        self.generator.set_state(state.cpu())


def check_bank_fits(dataset_size: int, dim: int, device: torch.device) -> None:
    """Log the size of a bank before it is allocated in each process; refuse it if there is no room.

    Processes on the CPU share the memory of their machine; processes on CUDA have a device each.

    Raises:
        ValueError: in all processes, if it does not fit in one of them.
    """
    needed = dataset_size * dim * torch.float32.itemsize
    sharing = comm.get_local_size() if device.type == "cpu" else 1
    # Gathered, so that each process checks before any process allocates, and all come to the same result.
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
