"""What a pre-training method owes to the rest: the base class of the files in this folder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fvcore.common.config import CfgNode
from torch import nn

from ..keys import Key

# The value of METHOD -> the method; filled by the classes themselves when their files are imported.
METHODS: dict[str, type["Method"]] = {}


@dataclass(kw_only=True)
class DataFacts:
    """What a method is built for.

    Attributes:
        size: images in the data set.
        classes: their names, where there are labels.
    """

    size: int
    classes: tuple[str, ...] = ()


class Method(nn.Module, ABC):
    """A pre-training method: a module that turns a batch into a loss, and says what it needs for that.

    A subclass names itself: ``class MomentumContrast(Method, name="moco")``; the name is the value of ``METHOD``. One
    without a name is a base of others. The trainer updates the parameters that require a gradient, and saves and
    resumes the whole state dict.

    Attributes:
        views: names of the views of an image that a batch holds, each N x 3 x H x W.
        keys: keys of the config that the method reads besides those of every run, by name. Methods may share a key.
        needs_index: whether a batch must hold ``"index"``, the place of each image in the data set; a stream has none.
        classifies: whether it learns classes: a batch holds ``"label"`` (N, int64), the data are class folders, the
            encoder ends in a classifier that is evaluated on ``DATA.VAL_ROOT``.
        encoder_name: the child that is evaluated and converted, a ResNet with its head as ``fc``. Checkpoints say it.
            ``MODEL.WEIGHTS`` starts its backbone.
        encoder_copies: the children that start as exact copies of it, heads included.

    Raises:
        ValueError: a subclass takes the name of another.
    """

    name: ClassVar[str]
    views: ClassVar[tuple[str, ...]]
    keys: ClassVar[Mapping[str, Key]] = {}
    needs_index: ClassVar[bool] = False
    classifies: ClassVar[bool] = False
    encoder_name: ClassVar[str] = "encoder_q"
    encoder_copies: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        known = METHODS.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):  # a reload makes it anew
            raise ValueError(f"METHOD {name!r} is {known.__module__}.{known.__qualname__} already; choose another name")
        cls.name = name
        METHODS[name] = cls

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "Method":
        """Build the method that ``cfg`` describes for the data."""

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Refuse (``ValueError``) values of the config that do not go together; each alone is checked already."""

    @classmethod
    def check_length(cls, cfg: CfgNode, max_iter: int) -> None:
        """Refuse (``ValueError``) values of the config that a run of ``max_iter`` iterations is too short for."""

    @classmethod
    def bytes_per_image(cls, cfg: CfgNode) -> int:
        """Return the bytes of state that every image of the data set adds."""
        return 0

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return what outputs of `forward` are where nothing is learned, by their names; not every one has a level."""
        return {}

    def begin_step(self, iteration: int, max_iter: int) -> None:
        """Set what changes during a run, as a function of these alone: a resumed run continues it exactly.

        Args:
            iteration: the one that begins, from 0.
            max_iter: length of the run.
        """

    @abstractmethod
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Make one step short of the optimizer's.

        Args:
            batch: see ``views``, ``needs_index`` and ``classifies``; images are normalised.

        Returns:
            ``"loss"``, a scalar with gradient, and scalars to be logged, such as ``"accuracy"``.
        """

    @property
    def encoder_to_transfer(self) -> nn.Module:
        """The encoder that is evaluated and converted."""
        return self.get_submodule(self.encoder_name)

    def check_copies(self) -> None:
        """Refuse a method that has a copy of the encoder and does not name it; call before the encoder changes.

        Raises:
            ValueError: a child equals the encoder and is not in ``encoder_copies``.
        """
        encoder = self.encoder_to_transfer.state_dict()
        for name, child in self.named_children():
            own = child.state_dict()
            known = name in (self.encoder_name, *self.encoder_copies)
            if not known and own.keys() == encoder.keys() and all(map(torch.equal, own.values(), encoder.values())):
                raise ValueError(
                    f"MODEL.WEIGHTS starts {self.encoder_name}, and would leave {name}, its copy, random: add {name!r}"
                    f" to encoder_copies of {type(self).__name__}"
                )

    def copy_encoder(self) -> None:
        """Make ``encoder_copies`` equal to the encoder again, buffers too, once that has started from weights."""
        for name in self.encoder_copies:
            self.get_submodule(name).load_state_dict(self.encoder_to_transfer.state_dict())

    def to_fill(self) -> Mapping[str, int]:
        """Return which buffers `fill` fills with vectors of real images, such as a queue, and how many each holds.

        They begin as noise. An encoder that begins as noise as well loses nothing by it; one that starts from weights
        would learn in its first steps to tell images from noise.
        """
        return {}

    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Put vectors of a batch's images into the buffers of `to_fill`; no parameter changes.

        All processes call, in training mode and without gradients. By default it is a whole step: encoders are still
        equal, so that one which follows another stays where it is, but the running statistics of all that encode move.

        Args:
            batch: see `forward`.
        """
        self(batch)

    def extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside the state dict: name -> object with a state dict."""
        return {}
