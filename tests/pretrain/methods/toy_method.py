"""A method that no file of the package knows: two views of an image to one vector, without negatives."""

import copy

import torch
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.encoders.resnet import build_resnet
from mocodet.pretrain.keys import SHARE, Key, at_least
from mocodet.pretrain.methods import Method
from mocodet.pretrain.methods.base import DataFacts
from mocodet.pretrain.methods.encoding import embed


class Agreement(Method, name="toy_agreement"):
    """An online encoder predicts a slow target; a draw from a generator with state weights the loss of each step."""

    views = ("query", "key")
    encoder_name = "online"
    encoder_copies = ("target",)
    keys = {  # noqa: RUF012 (as methods declare it)
        "TOY.DIM": Key(8, "Width of the vectors.", at_least(2)),
        "TOY.INERTIA": Key(0.9, "How much of the target stays.", SHARE),
    }

    def __init__(self, encoder: nn.Module, inertia: float, seed: int) -> None:
        super().__init__()
        self.online = encoder
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        self.inertia = inertia
        self.draws = Draws(seed)

    @classmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "Agreement":
        return cls(build_resnet(cfg.MODEL.ARCH, num_classes=cfg.TOY.DIM), cfg.TOY.INERTIA, cfg.SEED)

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        if cfg.TOY.DIM > cfg.SOLVER.IMS_PER_BATCH:
            raise ValueError(f"TOY.DIM {cfg.TOY.DIM} exceeds SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}")

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for slow, quick in zip(self.target.parameters(), self.online.parameters(), strict=True):
                slow.lerp_(quick, 1 - self.inertia)
            goal = embed(self.target, batch["key"])
        found = embed(self.online, batch["query"])
        agreement = (found * goal).sum(dim=1).mean()
        spread = found.std(dim=0).mean()
        return {"loss": self.draws.draw() * (1 - agreement) - spread, "agreement": agreement.detach()}

    def extra_state(self) -> dict[str, "Draws"]:
        return {"draws": self.draws}


class Draws:
    """A generator that a checkpoint must hold."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> float:
        return 1 + torch.rand((), generator=self.generator).item()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.generator.set_state(state["generator"])
