"""The interface of a pre-training method: the base class of the files in this folder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fvcore.common.config import CfgNode
from torch import nn

from ..keys import Key

# The value of METHOD -> the method; each class registers itself when its file is imported.
METHODS: dict[str, type["Method"]] = {}


@dataclass(kw_only=True)
class DataFacts:
    """The facts about the data that a method is built with.

    Attributes:
        size: number of images in the data set.
        classes: names of the classes, if there are labels.
    """

    size: int
    classes: tuple[str, ...] = ()


class Method(nn.Module, ABC):
    """A pre-training method: a module that computes a loss from a batch, and declares its needs.

    A subclass gives its name: ``class MomentumContrast(Method, name="moco")``; the name is the value of ``METHOD``. A
    subclass without a name is a base class. The trainer updates the parameters that require a gradient, and saves and
    resumes the whole state dict.

    Attributes:
        views: names of the views of an image that a batch holds, each N x 3 x H x W.
        keys: keys of the config that the method reads besides those of every run, by name. Methods may share a key.
        needs_index: whether a batch must hold ``"index"``, the place of each image in the data set; a stream has none.
        classifies: whether it learns classes: a batch holds ``"label"`` (N, int64), the data are class folders, and the
            encoder ends in a classifier that is evaluated on ``DATA.VAL_ROOT``.
        encoder_name: the child that is evaluated and converted, a ResNet with its head as ``fc``. Checkpoints record
            the name. ``MODEL.WEIGHTS`` initialises its backbone.
        encoder_copies: the children that start as exact copies of it, with their heads.

    Raises:
        ValueError: a subclass has the name of another.
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
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):  # a reload defines it again
            raise ValueError(f"METHOD {name!r} is already {known.__module__}.{known.__qualname__}; choose another name")
        cls.name = name
        METHODS[name] = cls

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "Method":
        """Build the method that ``cfg`` describes for the data."""

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Raise ``ValueError`` for values of the config that do not fit together; each alone has been checked."""

    @classmethod
    def check_length(cls, cfg: CfgNode, max_iter: int) -> None:
        """Raise ``ValueError`` for values of the config for which ``max_iter`` iterations are too few."""

    @classmethod
    def bytes_per_image(cls, cfg: CfgNode) -> int:
        """Return the bytes of state that each image of the data set adds."""
        return 0

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return the values that outputs of `forward` have by chance, by name; not every output has one."""
        return {}

    def begin_step(self, iteration: int, max_iter: int) -> None:
        """Set values that change during a run. They depend on the arguments alone, so that a run resumes exactly.

        Args:
            iteration: the iteration that begins, from 0.
            max_iter: length of the run.
        """

    @abstractmethod
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one step, without the optimizer.

        Args:
            batch: see ``views``, ``needs_index`` and ``classifies``; images are normalised.

        Returns:
            ``"loss"``, a scalar with gradient, and scalars to log, such as ``"accuracy"``.
        """

    @property
    def encoder_to_transfer(self) -> nn.Module:
        """The encoder that is evaluated and converted."""
        return self.get_submodule(self.encoder_name)

    def check_copies(self) -> None:
        """Check that the method declares all copies of its encoder; call it before the encoder changes.

        Raises:
            ValueError: a child equals the encoder and is not in ``encoder_copies``.
        """
        encoder = self.encoder_to_transfer.state_dict()
        for name, child in self.named_children():
            own = child.state_dict()
            known = name in (self.encoder_name, *self.encoder_copies)
            if not known and own.keys() == encoder.keys() and all(map(torch.equal, own.values(), encoder.values())):
                raise ValueError(
                    f"MODEL.WEIGHTS starts {self.encoder_name} and would leave {name}, its copy, random: add {name!r}"
                    f" to encoder_copies of {type(self).__name__}"
                )

    def copy_encoder(self) -> None:
        """Copy the encoder, with its buffers, to ``encoder_copies`` after it was initialised from weights."""
        for name in self.encoder_copies:
            self.get_submodule(name).load_state_dict(self.encoder_to_transfer.state_dict())

    def to_fill(self) -> Mapping[str, int]:
        """Return the buffers that `fill` fills with vectors of real images, such as a queue, and their lengths.

        They are initialised with noise. That does not harm a random encoder, but an encoder that starts from weights
        would learn to distinguish images from noise in its first steps.
        """
        return {}

    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Put vectors of a batch's images into the buffers of `to_fill`; parameters do not change.

        All processes call it, in training mode and without gradients. The default is a whole step: the encoders are
        still equal, so that a momentum update changes nothing, but the running statistics of all encoders change.

        Args:
            batch: see `forward`.
        """
        self(batch)

    def extra_state(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold besides the state dict: name -> object with a state dict."""
        return {}
